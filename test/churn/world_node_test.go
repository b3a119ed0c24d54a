//go:build node

package churn

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/cluster"
)

const (
	servicePort = 80
	backendPort = 8080
	// endpointsEach is how many endpoints a Service may have; the number of an address says whose it is.
	endpointsEach = 16
)

// clusterIP is a Service's address: nothing answers there, and nothing leads there, but for the translation.
func clusterIP(service uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96, byte(service >> 8), byte(service)})
}

// backendNet has all endpoints. It is local to the node.
var backendNet = netip.MustParsePrefix("10.128.0.0/9")

func endpointAddr(service uint32, n int) netip.Addr {
	i := service*endpointsEach + uint32(n)
	return netip.AddrFrom4([4]byte{10, 128 | byte(i>>16), byte(i >> 8), byte(i)})
}

// ownerOf is the Service of an endpoint's address, and the endpoint's number there.
func ownerOf(b [4]byte) (service uint32, n int) {
	i := uint32(b[1]&^128)<<16 | uint32(b[2])<<8 | uint32(b[3])
	return i / endpointsEach, int(i % endpointsEach)
}

// A set is which of a Service's endpoints are ready: one bit each.
type set uint16

func (s set) has(n int) bool { return s>>n&1 == 1 }

func (s set) size() (n int) {
	for i := range endpointsEach {
		if s.has(i) {
			n++
		}
	}
	return n
}

// A change is what a Service has from a moment on, which is when its control plane delivered it.
type change struct {
	at  int64
	set set
}

// A history is all that a Service had, in order.
type history []change

// gone is for how long an endpoint has been gone, at a time: 0 if it is there.
func (h history) gone(n int, at int64) time.Duration {
	var left int64
	for _, c := range h {
		if c.at > at {
			break
		}
		switch {
		case c.set.has(n):
			left = 0
		case left == 0:
			left = c.at
		}
	}
	if left == 0 {
		return 0
	}
	return time.Duration(at - left)
}

// during is what the Service had all the time between two moments; ok is false when it changed.
func (h history) during(from, to int64) (s set, ok bool) {
	for _, c := range h {
		if c.at > to {
			break
		}
		if c.at > from && ok {
			return 0, false
		}
		s, ok = c.set, true
	}
	return s, ok
}

func name(service uint32) cluster.Name {
	return cluster.Name{Namespace: "default", Name: fmt.Sprintf("s%05d", service)}
}

func serviceObject(service uint32) *cluster.Service {
	return &cluster.Service{
		Name: name(service), UID: name(service).String(), Created: time.Unix(1, 0), ClusterIPs: []netip.Addr{clusterIP(service)},
		Ports: []cluster.ServicePort{
			{Name: "tcp", Protocol: cluster.TCP, Port: servicePort}, {Name: "udp", Protocol: cluster.UDP, Port: servicePort},
		},
	}
}

func sliceObject(service uint32, s set) *cluster.EndpointSlice {
	out := &cluster.EndpointSlice{
		Name: name(service), Service: name(service),
		Ports: []cluster.EndpointPort{
			{Name: "tcp", Protocol: cluster.TCP, Port: backendPort}, {Name: "udp", Protocol: cluster.UDP, Port: backendPort},
		},
	}
	for n := range endpointsEach {
		if s.has(n) {
			out.Endpoints = append(out.Endpoints, cluster.Endpoint{Addr: endpointAddr(service, n), NodeName: "elsewhere", Ready: true, Serving: true})
		}
	}
	return out
}

// lateness is how late picks were, in order.
type lateness []time.Duration

func (l lateness) String() string {
	if len(l) == 0 {
		return "none"
	}
	slices.Sort(l)
	return fmt.Sprintf("%d, p50 %s, p99 %s, the latest %s", len(l), l.percentile(50), l.percentile(99), l[len(l)-1])
}

// percentile is what n of 100 are not later than; 0 when there is none.
func (l lateness) percentile(n int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(l))[len(l)*n/100]
}

// A verdict is what a load's picks say.
type verdict struct {
	connections, exchanges, datagrams, reaped int
	late, lateUDP                             lateness
	counted                                   [endpointsEach]float64 // connections to Service 0 at moments when it did not change
	expected                                  [endpointsEach]float64
}

// A grace is for how long after a change was delivered a removed endpoint may still get connections, and datagrams of
// connected sockets. Which endpoints a connection could choose from is certain when there was no change for the time settled.
type grace struct{ connections, datagrams, settled time.Duration }

// judge holds each pick to what the Services had.
func judge(t *testing.T, picks []pick, of map[uint32]history, late grace) (v verdict) {
	t.Helper()
	wrong := 0
	fail := func(format string, args ...any) {
		if wrong++; wrong <= 20 {
			t.Errorf(format, args...)
		}
	}
	for _, p := range picks {
		switch {
		case p.UDP && (p.Errno == uint32(unix.ECONNABORTED) || p.Errno == uint32(unix.EDESTADDRREQ)):
			v.reaped++
			continue
		case p.Errno != 0:
			fail("%s", p)
			continue
		}
		service, n := ownerOf(p.Backend)
		if service != p.Service {
			fail("%s, which is of Service %d", p, service)
			continue
		}
		gone := min(of[service].gone(n, p.Start), of[service].gone(n, p.End)) // it may have come back meanwhile
		switch {
		case p.UDP:
			v.datagrams++
			if gone > 0 {
				v.lateUDP = append(v.lateUDP, gone)
			}
			if gone > late.datagrams {
				fail("%s, which was removed %s before", p, gone)
			}
		case p.Long:
			v.exchanges++
		default:
			v.connections++
			if gone > 0 {
				v.late = append(v.late, gone)
			}
			if gone > late.connections {
				fail("%s, which was removed %s before", p, gone)
			}
			v.count(p, n, of[service], late)
		}
	}
	if wrong > 20 {
		t.Errorf("and %d more", wrong-20)
	}
	return v
}

// count takes a pick of Service 0 into account for how uniform they are, if it is certain what it could choose from.
func (v *verdict) count(p pick, n int, h history, late grace) {
	if p.Service != 0 {
		return
	}
	s, ok := h.during(p.Start-int64(late.settled), p.End)
	if !ok || !s.has(n) {
		return
	}
	v.counted[n]++
	for i := range endpointsEach {
		if s.has(i) {
			v.expected[i] += 1 / float64(s.size())
		}
	}
}
