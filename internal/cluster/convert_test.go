package cluster

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func meta(name string, labels ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u1", Labels: make(map[string]string)}
	for i := 0; i < len(labels); i += 2 {
		m.Labels[labels[i]] = labels[i+1]
	}
	return m
}

func TestServiceFrom(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		labels  []string
		spec    corev1.ServiceSpec
		want    Service
		wantErr string
	}{
		"dual stack with ports": {
			spec: corev1.ServiceSpec{
				ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00::7"},
				Ports: []corev1.ServicePort{
					{Name: "http", Port: 80, NodePort: 30080},
					{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
					{Name: "sig", Port: 5060, Protocol: corev1.ProtocolSCTP},
				},
				PublishNotReadyAddresses: true,
			},
			want: Service{
				ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00::7")},
				Ports: []ServicePort{
					{Name: "http", Protocol: TCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: UDP, Port: 53}, {Name: "sig", Protocol: SCTP, Port: 5060},
				},
				PublishNotReady: true,
			},
		},
		"clusterIP without clusterIPs": {
			spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7"},
			want: Service{ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}},
		},
		"an address with leading zeros, as kube-proxy reads it": {
			spec: corev1.ServiceSpec{ClusterIP: "010.096.000.007"},
			want: Service{ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}},
		},
		"headless": {
			spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}},
			want: Service{Headless: true},
		},
		"external name": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com."},
			want: Service{ExternalName: "db.example.com"},
		},
		"local policies and default affinity": {
			spec: corev1.ServiceSpec{
				InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyLocal),
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
				SessionAffinity:       corev1.ServiceAffinityClientIP,
			},
			want: Service{InternalLocal: true, ExternalLocal: true, Affinity: 3 * time.Hour},
		},
		"affinity timeout": {
			spec: corev1.ServiceSpec{
				SessionAffinity:       corev1.ServiceAffinityClientIP,
				SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(30))}},
			},
			want: Service{Affinity: 30 * time.Second},
		},
		"another proxy's": {labels: []string{labelServiceProxyName, "other"}, want: Service{NamesProxy: true, ProxyName: "other"}},
		"bad cluster IP":  {spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.7", "x"}}, wantErr: `convert Service shop/cart: spec.clusterIPs[1]: "x" is not an address`},
		"bad protocol":    {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1, Protocol: "QUIC"}}}, wantErr: "spec.ports[0].protocol"},
		"port zero":       {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{}}}, wantErr: "spec.ports[0].port: 0"},
		"bad node port":   {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1, NodePort: 70000}}}, wantErr: "spec.ports[0].nodePort: 70000"},
		"no external name": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}, wantErr: "spec.externalName: empty",
		},
		"affinity beyond a day": {
			spec: corev1.ServiceSpec{
				SessionAffinity:       corev1.ServiceAffinityClientIP,
				SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(86401))}},
			},
			wantErr: "timeoutSeconds: 86401",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ServiceFrom(&corev1.Service{ObjectMeta: meta("cart", tt.labels...), Spec: tt.spec})
			if !errorHas(err, tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if tt.wantErr != "" {
				return
			}
			tt.want.Name, tt.want.UID = Name{"shop", "cart"}, "u1"
			if !got.equal(&tt.want) {
				t.Errorf("-want +got:\n%s", cmp.Diff(&tt.want, got, compareAddrs))
			}
		})
	}
}

func TestServiceFromExternal(t *testing.T) {
	t.Parallel()
	lb := func(list ...corev1.LoadBalancerIngress) corev1.ServiceStatus {
		return corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: list}}
	}
	for name, tt := range map[string]struct {
		spec    corev1.ServiceSpec
		status  corev1.ServiceStatus
		want    Service
		wantErr string
	}{
		"external IPs": {
			spec: corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.7", "2001:db8::7"}},
			want: Service{ExternalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")}},
		},
		"load balancer, by ipMode": {
			status: lb(
				corev1.LoadBalancerIngress{IP: "203.0.113.1"},
				corev1.LoadBalancerIngress{IP: "203.0.113.2", IPMode: new(corev1.LoadBalancerIPModeVIP)},
				corev1.LoadBalancerIngress{IP: "203.0.113.3", IPMode: new(corev1.LoadBalancerIPModeProxy)},
				corev1.LoadBalancerIngress{Hostname: "lb.example.com"},
			),
			want: Service{LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}},
		},
		"empty external IPs and ranges, which old API servers let pass": {
			spec: corev1.ServiceSpec{ExternalIPs: []string{"", " ", "203.0.113.7"}, LoadBalancerSourceRanges: []string{"", "10.0.0.0/8"}},
			want: Service{ExternalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		},
		"health check port, for load balancers with the external policy Local": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 32000},
			want: Service{ExternalLocal: true, HealthCheckNodePort: 32000},
		},
		"health check port that nobody asks": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 32000},
			want: Service{ExternalLocal: true},
		},
		"source ranges": {
			spec: corev1.ServiceSpec{LoadBalancerSourceRanges: []string{" 10.1.2.3/8", "fd00::/64 "}},
			want: Service{SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")}},
		},
		"bad external IP": {spec: corev1.ServiceSpec{ExternalIPs: []string{"x"}}, wantErr: `convert Service shop/cart: spec.externalIPs[0]: "x" is not an address`},
		"bad VIP":         {status: lb(corev1.LoadBalancerIngress{IP: "x"}), wantErr: `status.loadBalancer.ingress[0].ip: "x" is not an address`},
		"bad range":       {spec: corev1.ServiceSpec{LoadBalancerSourceRanges: []string{"10.0.0.0"}}, wantErr: `spec.loadBalancerSourceRanges[0]: "10.0.0.0" is not a range of addresses`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &corev1.Service{ObjectMeta: meta("cart"), Spec: tt.spec, Status: tt.status}
			got, err := ServiceFrom(in)
			if !errorHas(err, tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if tt.wantErr != "" {
				return
			}
			tt.want.Name, tt.want.UID = Name{"shop", "cart"}, "u1"
			if !got.equal(&tt.want) || got.equal(&Service{Name: tt.want.Name, UID: "u1"}) {
				t.Errorf("-want +got:\n%s", cmp.Diff(&tt.want, got, compareAddrs))
			}
			published, err := exposedServiceFrom(in)
			if err != nil || published.ExternalIPs != nil || published.LoadBalancerIPs != nil || published.SourceRanges != nil {
				t.Errorf("for publishing: %+v, %v", published, err)
			}
		})
	}
}

func errorHas(err error, text string) bool {
	if err == nil || text == "" {
		return err == nil && text == ""
	}
	return strings.Contains(err.Error(), text)
}

func TestSliceFrom(t *testing.T) {
	t.Parallel()
	v4 := func(addrs ...string) discoveryv1.Endpoint { return discoveryv1.Endpoint{Addresses: addrs} }
	for name, tt := range map[string]struct {
		in      discoveryv1.EndpointSlice
		want    *EndpointSlice
		wantErr string
	}{
		"nil conditions and the first address only": {
			in:   discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{v4("10.0.0.1", "10.0.0.2")}},
			want: &EndpointSlice{Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true}}},
		},
		"everything set": {
			in: discoveryv1.EndpointSlice{
				AddressType: discoveryv1.AddressTypeIPv6,
				Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolUDP)}},
				Endpoints: []discoveryv1.Endpoint{{
					Addresses:  []string{"fd00::1"},
					Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)},
					Hostname:   new("web-0"), NodeName: new("Node-A"), Zone: new("z1"),
					TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "web-0-pod"},
					Hints: &discoveryv1.EndpointHints{
						ForZones: []discoveryv1.ForZone{{Name: "z1"}}, ForNodes: []discoveryv1.ForNode{{Name: "Node-A"}},
					},
				}},
			},
			want: &EndpointSlice{
				Ports: []EndpointPort{{"http", UDP, 8080}},
				Endpoints: []Endpoint{{
					Addr: netip.MustParseAddr("fd00::1"), Hostname: "web-0", NodeName: "node-a", Zone: "z1", Pod: "web-0-pod",
					Serving: true, Terminating: true, ForZones: []string{"z1"}, ForNodes: []string{"node-a"},
				}},
			},
		},
		"ports without name or number are left out": {
			in: discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{
				{Name: new("a")}, {Port: new(int32(1))}, {Name: new("c"), Port: new(int32(0))}, {Name: new(""), Port: new(int32(2))},
			}},
			want: &EndpointSlice{Ports: []EndpointPort{{"", TCP, 2}}},
		},
		"FQDN": {in: discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeFQDN, Endpoints: []discoveryv1.Endpoint{v4("a.b")}}},
		"bad address": {
			in:      discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{v4("10.0.0.1"), v4("x")}},
			wantErr: `convert EndpointSlice shop/cart-1: endpoints[1].addresses[0]: "x" is not an address`,
		},
		"no address": {
			in:      discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{v4()}},
			wantErr: "endpoints[0].addresses: empty",
		},
		"address of the other family": {
			in:      discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv6, Endpoints: []discoveryv1.Endpoint{v4("::ffff:10.0.0.1")}},
			wantErr: `10.0.0.1 in a slice of address type "IPv6"`,
		},
		"bad port": {
			in:      discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(-1))}}},
			wantErr: "ports[0].port: -1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.in.ObjectMeta = meta("cart-1", discoveryv1.LabelServiceName, "cart", corev1.IsHeadlessService, "")
			got, err := SliceFrom(&tt.in)
			if !errorHas(err, tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if tt.want == nil || got == nil {
				if got != tt.want {
					t.Fatalf("got %+v, want %+v", got, tt.want)
				}
				return
			}
			tt.want.Name, tt.want.Service, tt.want.Headless = Name{"shop", "cart-1"}, Name{"shop", "cart"}, true
			if !got.equal(tt.want) {
				t.Errorf("-want +got:\n%s", cmp.Diff(tt.want, got, compareAddrs))
			}
		})
	}
}

func TestSliceOfNoService(t *testing.T) {
	t.Parallel()
	in := discoveryv1.EndpointSlice{ObjectMeta: meta("lost"), AddressType: discoveryv1.AddressTypeIPv4}
	if got, err := SliceFrom(&in); got != nil || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}
