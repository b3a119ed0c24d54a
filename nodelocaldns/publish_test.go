package nodelocaldns

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// fakeAnswers is a working Answers without a kernel.
type fakeAnswers struct {
	entries map[bpf.AnswerKey]bpf.Answer
	zone    bpf.AnswerZone
	beats   int
	room    int
	fail    func(write string) bool
	log     []string // of writes
}

func newFakeAnswers() *fakeAnswers {
	return &fakeAnswers{entries: map[bpf.AnswerKey]bpf.Answer{}, room: 1 << 20, fail: func(string) bool { return false }}
}

var errInjected = errors.New("injected")

func (f *fakeAnswers) write(what string, a bpf.Answer) error {
	if f.log = append(f.log, what); f.fail(what) {
		return errInjected
	}
	if _, ok := f.entries[a.AnswerKey]; !ok && len(f.entries) >= f.room {
		return errInjected
	}
	f.entries[a.AnswerKey] = a
	return nil
}

func (f *fakeAnswers) Put(k bpf.AnswerKey, response []byte, life bpf.AnswerLife) error {
	return f.write("put "+k.Name+" "+dns.TypeToString[k.Type], bpf.Answer{AnswerKey: k, Response: slices.Clone(response), AnswerLife: life})
}

func (f *fakeAnswers) PutName(name string, flags bpf.NameFlags) error {
	return f.write("name "+name, bpf.Answer{AnswerKey: bpf.AnswerKey{Name: name}, Names: flags})
}

func (f *fakeAnswers) Delete(k bpf.AnswerKey) error {
	if f.fail("delete " + k.Name + " " + dns.TypeToString[k.Type]) {
		return errInjected
	}
	if _, ok := f.entries[k]; ok {
		f.log = append(f.log, "delete "+k.Name+" "+dns.TypeToString[k.Type])
	}
	delete(f.entries, k)
	return nil
}

func (f *fakeAnswers) DeleteName(name string) error { return f.Delete(bpf.AnswerKey{Name: name}) }

func (f *fakeAnswers) All() iter.Seq2[bpf.Answer, error] {
	return func(yield func(bpf.Answer, error) bool) {
		if f.fail("read") {
			yield(bpf.Answer{}, errInjected)
			return
		}
		for _, a := range f.entries {
			if !yield(a, nil) {
				return
			}
		}
	}
}

func (f *fakeAnswers) SetZone(z bpf.AnswerZone) error {
	if f.fail("zone") {
		return errInjected
	}
	f.zone = z
	return nil
}

func (f *fakeAnswers) Beat() error {
	if f.fail("beat") {
		return errInjected
	}
	f.beats++
	return nil
}

// narrow holds less than the kernel, so that small clusters have what does not fit.
func narrow(k bpf.AnswerKey, response []byte) ([]byte, error) {
	m := new(dns.Msg)
	if err := m.Unpack(response); err != nil || len(m.Answer)+len(m.Extra) > 4 {
		return nil, errors.New("too large")
	}
	return bpf.StoredAnswer(k, response)
}

const asks = "ask" // userspace

// says is what the kernel says by its rules, as text does.
func (f *fakeAnswers) says(t errorer, q dns.Question) string {
	name := dns.CanonicalName(q.Name)
	if a, ok := f.entries[bpf.AnswerKey{Name: name, Type: q.Qtype}]; ok && q.Qtype != dns.TypeNone {
		return textOf(t, a.Response)
	}
	if a, ok := f.entries[bpf.AnswerKey{Name: name}]; ok {
		ask := bpf.NameAskAll | map[uint16]bpf.NameFlags{dns.TypeA: bpf.NameAskA, dns.TypeAAAA: bpf.NameAskAAAA, dns.TypeSRV: bpf.NameAskSRV}[q.Qtype]
		if a.Names&ask != 0 {
			return asks
		}
		return "NODATA"
	}
	if !f.zone.Complete || !dns.IsSubDomain(f.zone.Domain, name) || dns.IsSubDomain("pod."+f.zone.Domain, name) {
		return asks
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, f.zone.Domain))
	if slices.ContainsFunc(labels, func(l string) bool { return l[0] == '_' }) {
		return asks
	}
	if n := len(labels); n > 3 && labels[n-1] == "svc" {
		above := f.entries[bpf.AnswerKey{Name: strings.Join(labels[n-3:], ".") + "." + f.zone.Domain}]
		if above.Names&(bpf.NameAskAll|bpf.NameAskBelow) != 0 {
			return asks
		}
	}
	return "NXDOMAIN"
}

type errorer interface {
	Helper()
	Errorf(format string, args ...any)
}

func textOf(t errorer, response []byte) string {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(response); err != nil || !m.Response || !m.Authoritative {
		t.Errorf("a response that is none: %v, %v", m, err)
	}
	return text(t, Result{Ours: true, Rcode: m.Rcode, Authoritative: m.Authoritative, Answer: m.Answer, Ns: m.Ns, Extra: m.Extra})
}

func newTestPublisher(t interface{ Fatal(args ...any) }, answers Answers, changed func([]string)) *Publisher {
	p, err := NewPublisher(PublisherConfig{
		Zone: testZone, Answers: answers, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Changed: changed,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.plan.stored = narrow
	return p
}

// drawObjects draws a small cluster of which two draws have much in common.
func drawObjects(t *rapid.T) cluster.Objects {
	names := []cluster.Name{
		{Namespace: "a", Name: "x"}, {Namespace: "a", Name: "y"}, {Namespace: "b", Name: "x"}, {Namespace: "b", Name: "z"}, {Namespace: "kube-system", Name: "kube-dns"},
	}
	o := cluster.Objects{Namespaces: []string{"kube-system"}}
	for _, ns := range []string{"a", "b", "c"} {
		if rapid.IntRange(0, 4).Draw(t, "namespace") > 0 {
			o.Namespaces = append(o.Namespaces, ns)
		}
	}
	for i, name := range names {
		if rapid.IntRange(0, 4).Draw(t, "service") > 0 {
			o.Services = append(o.Services, drawService(t, name, i))
		}
		for j := range rapid.IntRange(0, 2).Draw(t, "slices") {
			o.Slices = append(o.Slices, drawSlice(t, name, j))
		}
	}
	return o
}

func drawService(t *rapid.T, name cluster.Name, i int) *cluster.Service {
	svc := &cluster.Service{Name: name, Created: time.Unix(int64(i), 0), PublishNotReady: rapid.IntRange(0, 5).Draw(t, "unready") == 0}
	for _, port := range []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}, {Name: "dns", Protocol: cluster.UDP, Port: 53}} {
		if rapid.Bool().Draw(t, "port") {
			svc.Ports = append(svc.Ports, port)
		}
	}
	v4 := netip.AddrFrom4([4]byte{10, 96, 0, byte(i/2 + rapid.IntRange(0, 2).Draw(t, "address"))}) // two may claim one
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		svc.ExternalName = rapid.SampledFrom([]string{"www.example.com", "192.0.2.1", "a..b", "x.a.svc.cluster.local"}).Draw(t, "target")
	case 1, 2:
		svc.Headless = true
	case 3:
		svc.ClusterIPs = []netip.Addr{v4, netip.MustParseAddr(fmt.Sprintf("fd00::%d", i))}
	default:
		svc.ClusterIPs = []netip.Addr{v4}
	}
	return svc
}

func drawSlice(t *rapid.T, service cluster.Name, i int) *cluster.EndpointSlice {
	slice := &cluster.EndpointSlice{Name: cluster.Name{Namespace: service.Namespace, Name: fmt.Sprintf("%s-%d", service.Name, i)}, Service: service}
	if rapid.IntRange(0, 3).Draw(t, "port") > 0 {
		slice.Ports = []cluster.EndpointPort{{Name: "peer", Protocol: cluster.TCP, Port: 7000}}
	}
	for range rapid.IntRange(0, 6).Draw(t, "endpoints") {
		e := endpoint(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "fd00:1::1", "fd00:1::"}).Draw(t, "endpoint"), "")
		e.Ready = rapid.IntRange(0, 3).Draw(t, "ready") > 0
		if rapid.Bool().Draw(t, "named") {
			e.Hostname = rapid.SampledFrom([]string{"x-0", "x-1", "X-2"}).Draw(t, "hostname")
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	return slice
}

// questionsAbout are all that a Snapshot may have an answer to, and many beside them.
func questionsAbout() []dns.Question {
	var names []string
	for _, left := range []string{
		"", "x-0.", "x-1.", "x-2.", "X-0.", "10-0-0-1.", "10-0-0-2.", "10-0-0-3.", "fd00-1--1.", "fd00-1--0.", "nobody.", "_http._tcp.", "_HTTP._tcp.", "_dns._udp.", "_http._udp.",
		"_peer._tcp.", "_._tcp.", "_tcp.", "http.tcp.", "www.example.com.", "a.x-0.", "*.",
	} {
		for _, host := range []string{"x.a", "y.a", "x.b", "z.b", "kube-dns.kube-system", "none.a", "x.c", "x.d"} {
			names = append(names, left+host+".svc.cluster.local.")
		}
	}
	names = append(names, "cluster.local.", "svc.cluster.local.", "pod.cluster.local.", "dns-version.cluster.local.", "ns.dns.cluster.local.", "dns.cluster.local.",
		"a.svc.cluster.local.", "b.svc.cluster.local.", "c.svc.cluster.local.", "d.svc.cluster.local.", "a.pod.cluster.local.", "10-0-0-1.a.pod.cluster.local.",
		"x.a.cluster.local.", "www.example.com.", "xcluster.local.", "local.", "1.0.0.127.in-addr.arpa.")
	for _, addr := range []string{"10.96.0.0", "10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::3", "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00:1::1", "192.0.2.1"} {
		name, _ := dns.ReverseAddr(addr)
		names = append(names, name)
	}
	var out []dns.Question
	for _, name := range names {
		for _, qtype := range []uint16{
			dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypePTR, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA, dns.TypeMX,
		} {
			out = append(out, dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET})
		}
	}
	return out
}

// checkSays holds what the kernel says against the zone: it may ask instead, but not of what it is there for.
func checkSays(t errorer, f *fakeAnswers, s *cluster.Snapshot, healthy bool) (asked int) {
	t.Helper()
	for _, q := range questionsAbout() {
		r := testZone.Answer(s, q)
		want, got := strings.ToLower(text(t, r)), strings.ToLower(f.says(t, q)) // the kernel spells the owner as the question does
		if got != want && got != asks {
			t.Errorf("%s %s: the kernel says\n%s\nand not\n%s", q.Name, dns.TypeToString[q.Qtype], got, want)
		}
		if got != asks {
			continue
		}
		asked++
		if healthy && !strings.Contains(q.Name, "_") && mayNotAsk(r, q) {
			t.Errorf("%s %s: the kernel asks, and should say\n%s", q.Name, dns.TypeToString[q.Qtype], want)
		}
	}
	return asked
}

// mayNotAsk are questions that the kernel is there for: addresses of the Services themselves and of endpoints with a hostname,
// and that there are none.
func mayNotAsk(r Result, q dns.Question) bool {
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA || !r.Ours || len(r.Answer) > 4 || r.Chase != "" {
		return false
	}
	labels := dns.SplitDomainName(q.Name)
	return len(labels) == 5 && !slices.Contains(labels, "pod") || len(labels) == 6 && strings.HasPrefix(labels[0], "x-") && len(r.Answer) > 0
}

// TestIncrementalEqualsFull: after any changes the kernel holds what a Publisher that starts now would write, and says what the
// zone says.
func TestIncrementalEqualsFull(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		store := cluster.NewStore()
		sub := store.Subscribe(cluster.Services, cluster.Namespaces)
		defer sub.Close()
		answers := newFakeAnswers()
		p := newTestPublisher(t, answers, nil)
		for i := range rapid.IntRange(1, 4).Draw(t, "changes") {
			changeSome(t, store, i)
			p.Publish(nextChange(t, sub, rapid.IntRange(0, 3).Draw(t, "full") == 0))
		}
		fresh := newFakeAnswers()
		newTestPublisher(t, fresh, nil).Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
		if diff := cmp.Diff(fresh.entries, answers.entries); diff != "" {
			t.Fatalf("after the changes (-fresh +changed):\n%s", diff)
		}
		if diff := cmp.Diff(fresh.zone, answers.zone); diff != "" {
			t.Fatalf("the zone after the changes (-fresh +changed):\n%s", diff)
		}
		checkSays(t, answers, store.Snapshot(), true)
	})
}

// changeSome makes another cluster of it, or lets a namespace alone come or go.
func changeSome(t *rapid.T, store *cluster.Store, i int) {
	if i > 0 && rapid.Bool().Draw(t, "namespace alone") {
		change := func(e *cluster.Edit) { e.PutNamespace("a") }
		if store.Snapshot().HasNamespace("a") {
			change = func(e *cluster.Edit) { e.DeleteNamespace("a") }
		}
		store.Update(change)
		return
	}
	objects := drawObjects(t)
	objects.Namespaces = append(objects.Namespaces, fmt.Sprint("n", i)) // a Change in any case
	store.Replace(objects)
}

// nextChange is the next Change, made a Full one on demand.
func nextChange(t interface{ Fatal(args ...any) }, sub *cluster.Subscription, full bool) cluster.Change {
	c, err := sub.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c.Full = c.Full || full
	return c
}
