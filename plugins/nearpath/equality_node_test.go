//go:build node

package nearpath

import (
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
)

// A kernel answers pods as the programs on their devices do.
type kernel struct {
	*bpf.Datapath
	pins          string
	pods, servers []netip.Addr // IPv4, IPv6
	searching     []netip.Addr // pods with a scope
}

func startKernel(t *testing.T) *kernel {
	t.Helper()
	mount := t.TempDir()
	ok(t, unix.Mount("bpf", mount, "bpf", 0, ""))
	t.Cleanup(func() { ok(t, unix.Unmount(mount, 0)) })
	pins := filepath.Join(mount, "nearpath")
	d, err := bpf.Load(bpf.Config{PinDir: pins, CgroupRoot: "/sys/fs/cgroup"})
	ok(t, err)
	t.Cleanup(func() { ok(t, d.Close()) })
	k := &kernel{Datapath: d, pins: pins}
	for _, family := range [][3]string{{"10.8.0.5", "10.8.0.6", "10.96.0.10"}, {"fd00:8::5", "fd00:8::6", "fd00:96::a"}} {
		k.pods, k.searching = append(k.pods, netip.MustParseAddr(family[0])), append(k.searching, netip.MustParseAddr(family[1]))
		k.servers = append(k.servers, netip.MustParseAddr(family[2]))
	}
	ok(t, errors.Join(d.Answers.SetServers(k.servers), d.Answers.Beat(),
		d.Pods.Put(bpf.Pod{Addrs: k.pods, Link: 1, Slot: 1}), d.Pods.Put(bpf.Pod{Addrs: k.searching, Link: 1, Slot: 2, Scope: 7})))
	return k
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ask returns nil for what goes on to userspace.
func (k *kernel) ask(t *testing.T, pods []netip.Addr, q dns.Question, v6 int, edns bool) *dns.Msg {
	t.Helper()
	m := newQuery(q, edns)
	query, err := m.Pack()
	ok(t, err)
	reply, err := k.Ask(pods[v6], k.servers[v6], query)
	ok(t, err)
	if reply == nil {
		return nil
	}
	var answer dns.Msg
	ok(t, answer.Unpack(reply))
	if answer.Id != m.Id || !answer.RecursionDesired || len(answer.Question) != 1 || answer.Question[0] != q {
		t.Errorf("%s %s: the reply is to %v, id %d for %d, rd %t", q.Name, dns.TypeToString[q.Qtype], answer.Question, answer.Id, m.Id, answer.RecursionDesired)
	}
	return &answer
}

// explained holds what `nearpath explain dns` says against what the kernel does, which may find an answer too large for the client.
func (k *kernel) explained(t *testing.T, pinned *bpf.PinnedAnswers, q dns.Question, scope uint32, got *dns.Msg) {
	t.Helper()
	v, err := pinned.Decide(q.Name, q.Qtype, scope)
	ok(t, err)
	if answers := v.Outcome == bpf.DNSHit || v.Outcome == bpf.DNSNegative; answers != (got != nil) && len(v.Answer.Response) <= 512 {
		t.Errorf("%s %s for scope %d: answered %t, explained as %s, reason %d", q.Name, dns.TypeToString[q.Qtype], scope, got != nil, v.Outcome, v.Reason)
	}
	if got != nil && (got.Rcode == dns.RcodeNameError) != (v.Reason == bpf.DNSNoSuchName) {
		t.Errorf("%s %s for scope %d: %s, explained by reason %d", q.Name, dns.TypeToString[q.Qtype], scope, dns.RcodeToString[got.Rcode], v.Reason)
	}
}

// TestKernelEqualToCoreDNS asks the kernel, this plugin and the kubernetes plugin of CoreDNS, that follow the same API.
func TestKernelEqualToCoreDNS(t *testing.T) {
	s, k := startServers(t), startKernel(t)
	publisher, err := nodelocaldns.NewPublisher(nodelocaldns.PublisherConfig{
		Zone: nodelocaldns.Zone{Domain: "cluster.local", TTL: defaultTTL}, Answers: k.Answers, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	ok(t, err)
	ours, other := newAsker(t, s.ours), newAsker(t, s.other)
	known := deviations()
	asked, answered, denied, searching := 0, 0, 0, 0
	for seed := range uint64(3) {
		w := newWorld(seed)
		s.become(t, w, int(seed))
		publisher.Publish(cluster.Change{Snapshot: s.store.Snapshot(), Full: true})
		ok(t, k.Answers.Beat())
		pinned, err := bpf.OpenAnswers(k.pins)
		ok(t, err)
		for i, q := range w.questions() {
			by := way{edns: i%3 == 1}
			asked++
			got := k.ask(t, k.pods, q, i%2, by.edns)
			same := k.ask(t, k.searching, q, i%2, by.edns)
			k.explained(t, pinned, q, 0, got)
			k.explained(t, pinned, q, 7, same)
			if got == nil {
				if mustAnswer(w, q) {
					t.Errorf("%s %s goes on to userspace", q.Name, dns.TypeToString[q.Qtype])
				}
				continue
			}
			answered++
			if got.Rcode == dns.RcodeNameError {
				denied++
			}
			text := says(got)
			if our := says(ours.ask(t, q, by)); text != our {
				t.Errorf("%s %s by %s: the kernel's answer is\n%s\nand userspace's\n%s", q.Name, dns.TypeToString[q.Qtype], by, text, our)
			}
			compare(t, known, q, by, got, other.ask(t, q, by))
			if same != nil {
				searching++
				if says(same) != text {
					t.Errorf("%s %s: a pod with a scope gets\n%s\nand others\n%s", q.Name, dns.TypeToString[q.Qtype], says(same), text)
				}
			}
		}
		ok(t, pinned.Close())
	}
	t.Logf("%d questions, %d answered by the kernel, %d of them denied, %d for pods with a scope", asked, answered, denied, searching)
}

// mustAnswer are questions that the kernel is there for: addresses of Services with cluster IPs.
func mustAnswer(w *world, q dns.Question) bool {
	return w.clusterIPs[dns.CanonicalName(q.Name)] && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA)
}
