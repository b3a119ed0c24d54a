package cluster

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestListeners: row K24. The formats are those of cloud-provider-alibaba-cloud (clbv1 and nlbv2/listeners.go).
func TestListeners(t *testing.T) {
	t.Parallel()
	const now, before = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-", "service.beta.kubernetes.io/alicloud-loadbalancer-"
	for name, tt := range map[string]struct {
		annotations map[string]string
		want        []uint16 // ports without a short cut, of 80, 443 and 853
	}{
		"K24/none":                         {nil, nil},
		"K24/TLS ends at a classic one":    {map[string]string{now + "protocol-port": "https:443,http:80", now + "cert-id": "c"}, []uint16{443}},
		"K24/TLS ends at a network one":    {map[string]string{now + "protocol-port": "TCPSSL:443, tcpssl:853"}, []uint16{443, 853}},
		"K24/the prefix of before 2019":    {map[string]string{before + "protocol-port": "https:443"}, []uint16{443}},
		"K24/a certificate alone does not": {map[string]string{now + "cert-id": "c"}, nil},
		"K24/plain protocols":              {map[string]string{now + "protocol-port": "tcp:443,http:80"}, nil},
		"K24/PROXY protocol":               {map[string]string{now + "proxy-protocol": "on"}, []uint16{80, 443, 853}},
		"K24/PROXY protocol, not of http":  {map[string]string{now + "proxy-protocol": "On", now + "protocol-port": "http:80"}, []uint16{443, 853}},
		"K24/PROXY protocol off":           {map[string]string{now + "proxy-protocol": "off"}, nil},
		"K24/the newer prefix comes first": {map[string]string{now + "proxy-protocol": "off", before + "proxy-protocol": "on"}, nil},
		"K24/the first entry of a port":    {map[string]string{now + "protocol-port": "tcp:443,https:443"}, nil},
		"K24/what is no entry":             {map[string]string{now + "protocol-port": "https"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &corev1.Service{ObjectMeta: meta("cart"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: 443}, {Port: 853}}}}
			in.Annotations = tt.annotations
			svc, err := ServiceFrom(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []uint16
			for _, p := range svc.Ports {
				if p.NoShortcut {
					got = append(got, p.Port)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("ports without a short cut are %v, want %v", got, tt.want)
			}
		})
	}
}
