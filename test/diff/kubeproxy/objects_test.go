package main

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestDecodeGivesWhatTheAPIServerWould(t *testing.T) {
	objects, err := decodeYAML(strings.NewReader(`
kind: List
items:
- kind: Service
  metadata: {name: web}
  spec: {clusterIPs: ["10.96.0.1", "fd00::1"], sessionAffinity: ClientIP, ports: [{port: 80}]}
---
kind: ConfigMap
metadata: {name: nothing of ours}
---
kind: Service
metadata: {name: other, labels: {service.kubernetes.io/service-proxy-name: somebody}}
spec: {clusterIP: 10.96.0.2}
---
kind: Service
metadata: {name: headless}
spec: {clusterIP: None}
---
kind: EndpointSlice
metadata: {name: headless-1, labels: {service.kubernetes.io/headless: ""}}
`), "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 4 {
		t.Fatalf("%d objects, want 4", len(objects))
	}
	svc := objects[0].(*v1.Service)
	if svc.Namespace != "default" || svc.Spec.ClusterIP != "10.96.0.1" || len(svc.Spec.IPFamilies) != 2 ||
		svc.Spec.Ports[0].Protocol != v1.ProtocolTCP || *svc.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds != 10800 {
		t.Errorf("not defaulted: %+v", svc)
	}
	for i, want := range []bool{true, false, false, false} {
		if got := watched(objects[i]); got != want {
			t.Errorf("%s is watched: %v, want %v", objects[i].GetName(), got, want)
		}
	}
}
