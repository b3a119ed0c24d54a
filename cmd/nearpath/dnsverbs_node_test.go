//go:build node

package main

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
)

// startVerbs is a node with some names, whose agent answers at the socket.
func startVerbs(t *testing.T) (p *published, socket string) {
	t.Helper()
	p = startPublished(t)
	p.store.Update(func(e *cluster.Edit) {
		e.PutService(publishedService(0))
		e.PutService(&cluster.Service{Name: cluster.Name{Namespace: "shop", Name: "ext"}, ExternalName: "www.example.com"})
	})
	p.store.Update(func(e *cluster.Edit) { e.PutService(publishedService(1)) }) // by which it is known that the others are there
	p.await(t, publishedName(1), "NOERROR 10.96.1.1")
	p.scopes.Bind(cni.PodEntry{ContainerID: "c", Addrs: []netip.Addr{netip.MustParseAddr(publishPod)}, Scope: cni.DNSScope{
		Servers: []string{publishServer}, Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Options: []string{"ndots:5"},
	}})
	m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	m.Response = true
	rr, err := dns.NewRR("www.example.com. 3600 IN A 192.0.2.1")
	must(t, err)
	m.Answer = []dns.RR{rr}
	response, err := m.Pack()
	must(t, err)
	must(t, p.datapath.Answers.Put(bpf.AnswerKey{Name: "www.example.com.", Type: dns.TypeA}, response, bpf.AnswerLife{Aged: true, Expires: time.Hour}))
	socket = serveAPI(t, func(api *agentapi.Server) {
		p.registerDNSViews(api)
		api.Handle(nouns["pods"].path, func(context.Context) (any, error) {
			return []podView{{Namespace: "shop", Name: "web-0", Addresses: []string{publishPod}}}, nil
		})
	})
	return p, socket
}

func TestGetDNS(t *testing.T) {
	p, socket := startVerbs(t)
	for range 3 {
		p.says("www.example.com.")
	}
	p.says("nobody.shop.svc.cluster.local.")
	p.says("other.example.com.")
	for name, tt := range map[string]struct {
		socket string
		want   []string
	}{
		"with an agent":    {socket, []string{"shop/web-0  10.8.0.5", "userspace: "}},
		"without an agent": {filepath.Join(t.TempDir(), "none.sock"), []string{"-    10.8.0.5", "no agent answers; its last sign of life was "}},
	} {
		got, err := execute(t, "get", "dns", "--pins", p.pins, "--socket", tt.socket)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, got)
		}
		for _, want := range append(tt.want, "www.example.com.", "HITS") {
			if !strings.Contains(got, want) {
				t.Errorf("%s: get dns lacks %q:\n%s", name, want, got)
			}
		}
	}
	view, err := readDNS(p.pins, 1)
	must(t, err)
	if len(view.Pods) != 1 || len(view.Names) != 1 {
		t.Fatalf("%+v", view)
	}
	if pod := view.Pods[0]; pod.Hit < 3 || pod.Negative < 1 || pod.Miss < 1 {
		t.Errorf("the pod's questions are %+v", pod)
	}
}

func TestExplainDNS(t *testing.T) {
	p, socket := startVerbs(t)
	none := filepath.Join(t.TempDir(), "none.sock")
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"a Service": {[]string{"shop/web-0", "cart-0", "--socket", socket}, `pod shop/web-0 looks up cart-0 A
it searches shop.svc.cluster.local. svc.cluster.local. cluster.local., ndots 5; the agent answers the first question with the end of the search
1. cart-0.shop.svc.cluster.local.
   the kernel answers NOERROR: it holds the answer
     cart-0.shop.svc.cluster.local. 5 IN A 10.96.1.0
`},
		"the other family": {[]string{"shop/web-0", "cart-0.shop.svc.cluster.local.", "aaaa", "--socket", socket}, `pod shop/web-0 looks up cart-0.shop.svc.cluster.local. AAAA
it searches shop.svc.cluster.local. svc.cluster.local. cluster.local., ndots 5; the name is asked for as it is
1. cart-0.shop.svc.cluster.local.
   the kernel answers NODATA: it knows the name, which has no such record
`},
		"an ExternalName": {[]string{"shop/web-0", "ext.shop.svc.cluster.local.", "--socket", socket}, `pod shop/web-0 looks up ext.shop.svc.cluster.local. A
it searches shop.svc.cluster.local. svc.cluster.local. cluster.local., ndots 5; the name is asked for as it is
1. ext.shop.svc.cluster.local.
   the kernel does not answer: it knows the name, and that the agent knows more: an ExternalName, more addresses than it holds, or ports
   the agent answers from the cluster's zone, and looks for www.example.com. next: NOERROR
     ext.shop.svc.cluster.local. 5 IN CNAME www.example.com.
`},
		"an external name": {[]string{"10.8.0.5", "www.example.com", "--socket", socket}, `pod 10.8.0.5 looks up www.example.com A
it searches shop.svc.cluster.local. svc.cluster.local. cluster.local., ndots 5; the agent answers the first question with the end of the search
1. www.example.com.shop.svc.cluster.local.
   the kernel answers NXDOMAIN: it knows every name of the cluster, and this is none
2. www.example.com.svc.cluster.local.
   the kernel answers NXDOMAIN: it knows every name of the cluster, and this is none
3. www.example.com.cluster.local.
   the kernel answers NXDOMAIN: it knows every name of the cluster, and this is none
4. www.example.com.
   the kernel answers NOERROR: it holds the answer
     www.example.com. 3600 IN A 192.0.2.1
`},
		"a port": {[]string{"10.8.0.5", "_http._udp.cart-0.shop.svc.cluster.local.", "SRV", "--socket", socket}, `pod 10.8.0.5 looks up _http._udp.cart-0.shop.svc.cluster.local. SRV
it searches shop.svc.cluster.local. svc.cluster.local. cluster.local., ndots 5; the name is asked for as it is
1. _http._udp.cart-0.shop.svc.cluster.local.
   the kernel does not answer: names of pods and ports are the agent's
   the agent answers from the cluster's zone: NXDOMAIN
`},
		"without an agent": {[]string{"10.8.0.5", "other.example.com", "--socket", none}, `pod 10.8.0.5 looks up other.example.com A
no agent answers: the pod's search is not known, and what the kernel does not answer goes to the cluster's DNS
1. other.example.com.
   the kernel does not answer: the name is not the cluster's, and has not been asked for twice of late
`},
	} {
		must(t, p.datapath.Answers.Beat())
		got, err := execute(t, append([]string{"explain", "dns", "--pins", p.pins}, tt.args...)...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, wrong := range [][]string{{"10.8.0.5"}, {"10.8.0.5", "a..b"}, {"10.8.0.5", "x", "NOTYPE"}, {"10.8.0.99", "x"}, {"web-0", "x"}} {
		if _, err := execute(t, append([]string{"explain", "dns", "--pins", p.pins, "--socket", socket}, wrong...)...); err == nil {
			t.Errorf("explain dns %v is no error", wrong)
		}
	}
}

func TestFlushDNS(t *testing.T) {
	p, socket := startVerbs(t)
	if got := p.says("www.example.com."); got != "NOERROR 192.0.2.1" {
		t.Fatalf("before the flush the kernel says %q", got)
	}
	got, err := execute(t, "dns", "flush", "WWW.example.com", "--pins", p.pins, "--socket", socket)
	if want := "www.example.com.: 1 answers of the kernel are forgotten, and what the agent's cache had\n"; err != nil || got != want {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
	if got := p.says("www.example.com."); got != "" {
		t.Errorf("after the flush the kernel says %q", got)
	}
	got, err = execute(t, "dns", "flush", publishedName(1), "--pins", p.pins, "--socket", filepath.Join(t.TempDir(), "none.sock"))
	if want := "cart-1.shop.svc.cluster.local.: 0 answers of the kernel are forgotten; no agent answers\n2 entries of the cluster's zone stay: they follow the cluster\n"; err != nil || got != want {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
	if got := p.says(publishedName(1)); got != "NOERROR 10.96.1.1" {
		t.Errorf("after the flush of a cluster name the kernel says %q", got)
	}
}
