package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nearpath/nearpath/bench/tcp"
)

// Where things are, in every site.
const (
	port       = tcp.Port // of the server, and of every Service
	namespace  = "bench"
	endpoints  = 10 // that answer
	flipping   = "flip"
	sliceLabel = "kubernetes.io/service-name"
)

var (
	serverAddrs = netip.MustParsePrefix("10.92.0.0/24") // the server has the first ones
	otherAddrs  = netip.MustParsePrefix("10.100.0.0/14")
	clusterIPs  = netip.MustParsePrefix("10.112.0.0/16")
	epoch       = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// nth is the n-th address of a network.
func nth(network netip.Prefix, n int) netip.Addr {
	b := network.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// served are the endpoints that answer.
func served() (addrs []netip.Addr) {
	for i := range endpoints {
		addrs = append(addrs, nth(serverAddrs, i+1))
	}
	return addrs
}

// Objects are part of a cluster, as the API has them.
type Objects struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// A size is how many Services there are, and how many endpoints each of them has.
type size struct {
	Services  int `json:"services"`
	Endpoints int `json:"endpoints"`
}

func (n size) String() string { return fmt.Sprintf("%d Services of %d", n.Services, n.Endpoints) }

// clusterOf makes a cluster. The Service in the middle has the server's ten addresses, so that a chain of rules is half as
// long on the way to it as it can be; endpoints of the others are nobody's.
func clusterOf(n size) (o Objects) {
	for i := range n.Services {
		addrs := served()
		if i != target(n.Services) {
			addrs = make([]netip.Addr, n.Endpoints)
			for e := range addrs {
				addrs[e] = nth(otherAddrs, i*n.Endpoints+e)
			}
		}
		o.add(serviceName(i), vip(i), epoch.Add(time.Duration(i)*time.Second), addrs)
	}
	o.add(flipping, vip(-1), epoch, served()[:1])
	return o
}

func (o *Objects) add(name string, ip netip.Addr, created time.Time, addrs []netip.Addr) {
	o.Services = append(o.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip.String(), ClusterIPs: []string{ip.String()},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port}},
			SessionAffinity: corev1.ServiceAffinityNone,
		},
	})
	o.Slices = append(o.Slices, sliceOf(name, addrs))
}

// documents are the objects as manifests have them, each with its kind.
func (o Objects) documents() (out []json.RawMessage, err error) {
	add := func(object runtime.Object, kind schema.GroupVersionKind) {
		object.GetObjectKind().SetGroupVersionKind(kind)
		text, marshalErr := json.Marshal(object)
		out, err = append(out, text), errors.Join(err, marshalErr)
	}
	for _, svc := range o.Services {
		add(svc, corev1.SchemeGroupVersion.WithKind("Service"))
	}
	for _, slice := range o.Slices {
		add(slice, discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	}
	return out, err
}

// sliceOf has all endpoints of a Service, on another node.
func sliceOf(name string, addrs []netip.Addr) *discoveryv1.EndpointSlice {
	protocol, number, portName, node := corev1.ProtocolTCP, int32(port), "", "other"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-1", Labels: map[string]string{sliceLabel: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: &protocol, Port: &number}},
	}
	for _, a := range addrs {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: &node})
	}
	return slice
}

func target(n int) int { return n / 2 }

func serviceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// vip is the cluster IP of the i-th Service; that of -1 flips.
func vip(i int) netip.Addr { return nth(clusterIPs, 256+i) }

func at(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
