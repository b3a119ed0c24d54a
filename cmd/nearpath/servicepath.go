package main

import (
	"fmt"
	"path"
	"slices"
)

// annotationServicePath says where a pod's calls to Services are translated, over all else.
const annotationServicePath = "nearpath.io/service-path"

// The values of annotationServicePath.
const (
	pathPackets = "packets"
	pathSockets = "sockets"
)

// meshByDefault are what service meshes call the containers that redirect a pod's connections to its proxy, or are that.
var meshByDefault = []string{
	"istio-init", "istio-validation", "istio-proxy", "linkerd-init", "linkerd-network-validator", "linkerd-proxy",
	"kuma-init", "kuma-validation", "kuma-sidecar", "consul-connect-inject-init", "consul-dataplane", "consul-mesh-init", "osm-init",
}

// labelAmbient is Istio's, on a pod without a proxy of its own whose connections its node agent redirects all the same.
const labelAmbient, ambient = "istio.io/dataplane-mode", "ambient"

// A pathChoice says whether a pod's Services are served by packets alone, because of what, and what to tell the pod.
type pathChoice struct {
	byPackets bool
	reason    string
	ignored   string
}

// choosePath has sockets translated unless somebody must see a Service's own address: a guest's stack, whose calls no hook
// sees, or a mesh, whose proxy routes by it. The annotation decides over that; one that cannot be meant is ignored.
func choosePath(c networkConfig, p podFacts) (out pathChoice) {
	if text, ok := p.annotations[annotationServicePath]; ok {
		switch text {
		case pathPackets:
			return pathChoice{byPackets: true, reason: fmt.Sprintf("%s is %q", annotationServicePath, text)}
		case pathSockets:
			return pathChoice{}
		}
		out.ignored = fmt.Sprintf("%s is %q: use packets or sockets, or remove it", annotationServicePath, text)
	}
	mesh := slices.IndexFunc(p.containers, func(name string) bool { return matchesAny(c.MeshContainers, name) })
	switch {
	case p.runtimeClass != "" && c.sandboxed(p.runtimeClass):
		out.byPackets, out.reason = true, fmt.Sprintf("it is in a sandbox of RuntimeClass %q", p.runtimeClass)
	case mesh >= 0:
		out.byPackets, out.reason = true, fmt.Sprintf("its container %q is a mesh's", p.containers[mesh])
	case p.labels[labelAmbient] == ambient:
		out.byPackets, out.reason = true, fmt.Sprintf("its label %s is %q", labelAmbient, ambient)
	}
	return out
}

// matchesAny says whether a name is as one of the patterns, in which * stands for any characters.
func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		match, _ := path.Match(pattern, name)
		return match
	})
}
