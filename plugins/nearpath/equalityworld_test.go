package nearpath

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A world is a random cluster, as API objects that a control plane could have made.
type world struct {
	rand    *rand.Rand
	objects []apiObject
	names   []string // that have records, as far as that is known here
	addrs   []string
	// clusterIPs are the names of Services with cluster IPs in namespaces that exist.
	clusterIPs map[string]bool
	exists     bool // the namespace at hand
	pods       int
}

func newWorld(seed uint64) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), clusterIPs: map[string]bool{}, exists: true}
	w.objects = append(w.objects, namespaceObject("kube-system"))
	w.clusterIP("kube-system", "kube-dns", "10.96.0.10")
	// By an endpoint that is its own address CoreDNS finds the Service that it is behind.
	w.objects = append(w.objects, &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}},
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns-self", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
	})
	w.names = append(w.names, "ns.dns.cluster.local.", "dns-version.cluster.local.", "cluster.local.", "svc.cluster.local.", "pod.cluster.local.")
	for i := range 3 {
		ns := fmt.Sprintf("team-%d", i)
		w.names = append(w.names, ns+".svc.cluster.local.", ns+".pod.cluster.local.", "10-1-2-3."+ns+".pod.cluster.local.")
		if w.exists = w.rand.IntN(8) > 0; w.exists { // or its Services are left over from it
			w.objects = append(w.objects, namespaceObject(ns))
		}
		for j := range 3 + w.rand.IntN(4) {
			w.service(ns, j)
		}
	}
	return w
}

func namespaceObject(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func (w *world) service(ns string, i int) {
	name := []string{"web", "db", "4cache", "a-b", "x", "queue", "mail"}[i]
	switch w.rand.IntN(8) {
	case 0:
		w.external(ns, name)
	case 1, 2, 3:
		w.headless(ns, name)
	case 4:
		w.clusterIP(ns, name, w.addr4("10.96"), fmt.Sprintf("fd00:96::%x", 1+w.rand.IntN(60000)))
	default:
		w.clusterIP(ns, name, w.addr4("10.96"))
	}
}

func (w *world) addr4(net string) string {
	w.pods++ // an address is given once
	return fmt.Sprintf("%s.%d.%d", net, w.pods>>8, w.pods&0xff)
}

func (w *world) host(ns, name string) string { return name + "." + ns + ".svc.cluster.local." }

func (w *world) clusterIP(ns, name string, ips ...string) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, Ports: w.ports(ns, name, 1)}
	w.objects = append(w.objects, svc)
	w.names, w.addrs = append(w.names, w.host(ns, name)), append(w.addrs, ips...)
	w.clusterIPs[w.host(ns, name)] = w.exists
	w.slices(ns, name, svc.Spec.Ports, false, false)
}

func (w *world) headless(ns, name string) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: w.ports(ns, name, w.rand.IntN(2))}
	svc.Spec.PublishNotReadyAddresses = w.rand.IntN(4) == 0
	w.objects = append(w.objects, svc)
	w.names = append(w.names, w.host(ns, name))
	w.slices(ns, name, svc.Spec.Ports, svc.Spec.PublishNotReadyAddresses, w.rand.IntN(2) == 0)
}

func (w *world) external(ns, name string) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}
	targets := []string{"www.example.com", "gone.example.org", "192.0.2.7", "web.team-0.svc.cluster.local", "mail.team-9.svc.cluster.local", "x.team-1.svc.cluster.local"}
	svc.Spec.ExternalName = targets[w.rand.IntN(len(targets))]
	w.objects = append(w.objects, svc)
	w.names = append(w.names, w.host(ns, name))
}

// ports are at least so many; one alone may have no name.
func (w *world) ports(ns, name string, least int) []corev1.ServicePort {
	all := []corev1.ServicePort{
		{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "sig", Protocol: corev1.ProtocolSCTP, Port: 5060},
	}
	ports := all[:least+w.rand.IntN(3-least+1)]
	if ports = slices.Clone(ports); len(ports) == 1 && w.rand.IntN(2) == 0 {
		ports[0].Name = ""
	}
	for _, p := range ports {
		if p.Name != "" {
			w.names = append(w.names, "_"+p.Name+"._"+strings.ToLower(string(p.Protocol))+"."+w.host(ns, name))
		}
	}
	return ports
}

// slices are the endpoints of a Service, a slice for each family.
func (w *world) slices(ns, name string, ports []corev1.ServicePort, publishNotReady, named bool) {
	count := []int{0, 1, 3, 3, 12, 40}[w.rand.IntN(6)]
	if count == 0 && w.rand.IntN(2) == 0 {
		return // not even a slice
	}
	families := []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
	if w.rand.IntN(4) == 0 {
		families = append(families, discoveryv1.AddressTypeIPv6)
	}
	for _, family := range families {
		slice := &discoveryv1.EndpointSlice{AddressType: family, ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: name + "-" + strings.ToLower(string(family)), Labels: map[string]string{discoveryv1.LabelServiceName: name},
		}}
		for _, p := range ports {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(p.Name), Protocol: new(p.Protocol), Port: new(p.Port + 8000)})
		}
		for i := range count {
			slice.Endpoints = append(slice.Endpoints, w.endpoint(ns, name, family, i, publishNotReady, named))
		}
		w.objects = append(w.objects, slice)
	}
}

func (w *world) endpoint(ns, name string, family discoveryv1.AddressType, i int, publishNotReady, named bool) discoveryv1.Endpoint {
	addr := w.addr4("10.0")
	label := strings.ReplaceAll(addr, ".", "-")
	if family == discoveryv1.AddressTypeIPv6 {
		addr = fmt.Sprintf("fd00:1::%x", w.pods)
		if w.rand.IntN(4) == 0 {
			addr = fmt.Sprintf("fd00:1:%x::", w.pods)
		}
		if label = strings.ReplaceAll(addr, ":", "-"); strings.HasSuffix(label, "-") {
			label += "0"
		}
	}
	e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: new(publishNotReady || w.rand.IntN(5) > 0)}}
	if w.rand.IntN(10) == 0 {
		e.Conditions.Ready = nil
	}
	if named && w.rand.IntN(8) > 0 {
		label = fmt.Sprintf("%s-%d", name, i)
		e.Hostname = new(label)
	}
	w.names, w.addrs = append(w.names, label+"."+w.host(ns, name)), append(w.addrs, addr)
	return e
}

// questions are about every name the world knows and names of like shapes beside it.
func (w *world) questions() []dns.Question {
	names := slices.Clone(w.names)
	for _, name := range w.names {
		labels := dns.SplitDomainName(name)
		other := slices.Clone(labels)
		other[w.rand.IntN(len(other)-1)] += "x"
		names = append(names, dns.Fqdn(strings.Join(other, ".")), []string{"nobody.", "_http._tcp.", "_tcp.", "a.b.", "*.", "http.tcp."}[w.rand.IntN(6)]+name, mixed(w.rand, name))
		if len(labels) > 3 {
			names = append(names, dns.Fqdn(strings.Join(slices.Delete(labels, 1, 2), ".")))
		}
	}
	var out []dns.Question
	for _, name := range names {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, []uint16{dns.TypeTXT, dns.TypeHTTPS, dns.TypeCNAME, dns.TypeMX, dns.TypeANY, dns.TypeSOA, dns.TypePTR}[w.rand.IntN(7)]} {
			out = append(out, dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET})
		}
	}
	for _, addr := range append(slices.Clone(w.addrs), "10.0.99.99", "192.0.2.1", "fd00:1::ffff") {
		name, _ := dns.ReverseAddr(addr)
		out = append(out, dns.Question{Name: name, Qtype: dns.TypePTR, Qclass: dns.ClassINET})
	}
	return out
}

// mixed spells some letters of a name in capitals.
func mixed(r *rand.Rand, name string) string {
	out := []byte(name)
	for i, c := range out {
		if c >= 'a' && c <= 'z' && r.IntN(2) == 0 {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out)
}
