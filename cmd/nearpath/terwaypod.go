package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// terwayPrefix begins the annotations of Terway.
const terwayPrefix = "k8s.aliyun.com/"

// Of Terway's annotations of pods, those that mean here what they mean there, and those that Terway itself writes.
var (
	terwayHonoured = []string{annotationKeep, terwayPrefix + "ingress-bandwidth", terwayPrefix + "egress-bandwidth"}
	terwayWritten  = []string{terwayPrefix + "allocated", terwayPrefix + "pod-uid", terwayPrefix + "pod-ips"}
)

// ignoredAnnotations are what a user of Terway asks for and does not get. network-priority is among them: its bands need
// a queue that all pods of an ENI share, and the limits of pods here have a queue each.
func ignoredAnnotations(annotations map[string]string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(name, terwayPrefix) && !slices.Contains(terwayHonoured, name) && !slices.Contains(terwayWritten, name) {
			names = append(names, name)
		}
	}
	return names
}

// tellIgnored makes one event of all of the pod's annotations without effect.
func (w *wisher) tellIgnored(p podFacts) {
	names := ignoredAnnotations(p.annotations)
	if len(names) == 0 {
		return
	}
	w.tell(p.object, "AnnotationsIgnored", fmt.Sprintf("%s: no meaning here, and the pod is wired without; remove them", strings.Join(names, ", ")))
}
