package kube

import (
	"fmt"
	"strings"
)

// A ref names an object.
type ref struct {
	kind, namespace, name string
}

// prefixes has the API path of each kind that a ref may have.
var prefixes = map[string]string{
	"configmap":      "/api/v1",
	"namespace":      "/api/v1",
	"node":           "/api/v1",
	"pod":            "/api/v1",
	"secret":         "/api/v1",
	"service":        "/api/v1",
	"serviceaccount": "/api/v1",
	"daemonset":      "/apis/apps/v1",
	"deployment":     "/apis/apps/v1",
	"statefulset":    "/apis/apps/v1",
	"endpointslice":  "/apis/discovery.k8s.io/v1",
	"networkpolicy":  "/apis/networking.k8s.io/v1",
}

// clusterScoped are the kinds without a namespace.
var clusterScoped = map[string]bool{"namespace": true, "node": true}

// parseRef reads "kind/namespace/name", "kind/name" for kinds without a namespace, and "namespace/name" for pods.
func parseRef(text string) (ref, error) {
	parts := strings.Split(text, "/")
	switch {
	case len(parts) == 3 && prefixes[parts[0]] != "" && !clusterScoped[parts[0]]:
		return ref{kind: parts[0], namespace: parts[1], name: parts[2]}, nil
	case len(parts) == 2 && clusterScoped[parts[0]]:
		return ref{kind: parts[0], name: parts[1]}, nil
	case len(parts) == 2 && prefixes[parts[0]] == "":
		return ref{kind: "pod", namespace: parts[0], name: parts[1]}, nil
	}
	return ref{}, fmt.Errorf("%q is not kind/namespace/name, node/name, or a pod's namespace/name", text)
}

// path is the object's path in the API.
func (r ref) path() string {
	plural := r.kind + "s"
	if r.kind == "networkpolicy" {
		plural = "networkpolicies"
	}
	if clusterScoped[r.kind] {
		return prefixes[r.kind] + "/" + plural + "/" + r.name
	}
	return prefixes[r.kind] + "/namespaces/" + r.namespace + "/" + plural + "/" + r.name
}
