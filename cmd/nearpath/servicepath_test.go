package main

import (
	"strings"
	"testing"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
)

func TestChoosePath(t *testing.T) {
	t.Parallel()
	c := networkConfig{Datapath: cni.Veth, Sandboxed: sandboxedByDefault, MeshContainers: append([]string{"own-mesh-*"}, meshByDefault...)}
	annotated := func(value string) map[string]string { return map[string]string{annotationServicePath: value} }
	for name, tt := range map[string]struct {
		pod     podFacts
		packets bool
		reason  string // part of it
		ignored string // part of what the pod is told
	}{
		"any":                        {podFacts{containers: []string{"app"}}, false, "", ""},
		"K11 a sandbox":              {podFacts{runtimeClass: "kata-qemu"}, true, "kata-qemu", ""},
		"K11 another class":          {podFacts{runtimeClass: "runc"}, false, "", ""},
		"K12 an init container":      {podFacts{containers: []string{"istio-init", "app"}}, true, "istio-init", ""},
		"K12 a proxy":                {podFacts{containers: []string{"app", "linkerd-proxy"}}, true, "linkerd-proxy", ""},
		"K12 a mesh of one's own":    {podFacts{containers: []string{"own-mesh-init"}}, true, "own-mesh-init", ""},
		"K12 a mesh without proxies": {podFacts{labels: map[string]string{labelAmbient: ambient}}, true, labelAmbient, ""},
		"K12 taken out of that":      {podFacts{labels: map[string]string{labelAmbient: "none"}}, false, "", ""},
		"opted out":                  {podFacts{annotations: annotated("packets")}, true, annotationServicePath, ""},
		"a mesh opted in":            {podFacts{annotations: annotated("sockets"), containers: []string{"istio-proxy"}}, false, "", ""},
		"a sandbox opted in":         {podFacts{annotations: annotated("sockets"), runtimeClass: "runsc"}, false, "", ""},
		"nonsense":                   {podFacts{annotations: annotated("Packets")}, false, "", `"Packets"`},
		"nonsense of a mesh":         {podFacts{annotations: annotated(""), containers: []string{"istio-proxy"}}, true, "istio-proxy", `""`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := choosePath(c, tt.pod)
			if got.byPackets != tt.packets || (got.ignored != "") != (tt.ignored != "") || !strings.Contains(got.reason, tt.reason) || !strings.Contains(got.ignored, tt.ignored) {
				t.Errorf("%+v, want %+v", got, tt)
			}
			for _, d := range datapaths {
				c := c
				c.Datapath = d
				want := d
				if d == cni.IPVlan && (tt.packets || tt.pod.runtimeClass == "runsc") {
					want = cni.Veth
				}
				if got, err := choose(c, tt.pod); err != nil || got.Datapath != want || got.byPackets != tt.packets || got.refused != "" {
					t.Errorf("on a node of %s: %+v, %v, want %s", d, got, err, want)
				}
			}
		})
	}
}

// TestWishByPackets: what is chosen reaches CNI, and the pod is told of what it does not get.
func TestWishByPackets(t *testing.T) {
	t.Parallel()
	mesh := aPod("mesh", "1", map[string]string{annotationDatapath: "ipvlan"})
	mesh.Containers = []string{"app", "istio-proxy"}
	wrong := aPod("wrong", "2", map[string]string{annotationServicePath: "fast"})
	labelled := aPod("labelled", "3", nil)
	labelled.Labels = map[string]string{labelAmbient: ambient}
	w := newWishTest(networkConfig{Datapath: cni.Veth, MeshContainers: meshByDefault}, mesh, wrong, labelled)
	w.ipvlan = func() error { return nil }
	for _, tt := range []struct {
		pod  *cluster.Pod
		want cni.Wish
	}{
		{mesh, cni.Wish{Datapath: cni.Veth, ByPackets: true}},
		{wrong, cni.Wish{Datapath: cni.Veth}},
		{labelled, cni.Wish{Datapath: cni.Veth, ByPackets: true}},
	} {
		if got, err := w.Wish(t.Context(), attachmentOf(tt.pod.Name.Name, tt.pod.UID), nil); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.pod.Name, got, err, tt.want)
		}
	}
	told := strings.Join(w.events, "\n")
	if len(w.events) != 2 || !strings.Contains(told, `Pod shop/mesh: DatapathRefused: nearpath.io/datapath is "ipvlan": the pod's Services are served by packets`) ||
		!strings.Contains(told, `Pod shop/wrong: ServicePathIgnored: nearpath.io/service-path is "fast": use packets or sockets`) {
		t.Errorf("events:\n%s", told)
	}
}
