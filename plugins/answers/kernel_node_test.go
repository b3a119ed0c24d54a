//go:build node

package answers

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns"
)

var dnsServer = netip.MustParseAddr("169.254.20.10")

// A realKernel is this machine's, with a pod for each scope that asks.
type realKernel struct {
	*bpf.Answers
	t        *testing.T
	datapath *bpf.Datapath
	pods     map[uint32]netip.Addr
}

// loadKernel loads the programs with maps of their own, attached to nothing: pods are on the loopback link.
func loadKernel(t *testing.T, scopes ...uint32) *realKernel {
	t.Helper()
	pins := t.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(pins, 0); err != nil {
			t.Error(err)
		}
	})
	d, err := bpf.Load(bpf.Config{PinDir: filepath.Join(pins, "nearpath"), CgroupRoot: "/sys/fs/cgroup"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &realKernel{Answers: d.Answers, t: t, datapath: d, pods: map[uint32]netip.Addr{}}
	for _, scope := range scopes {
		pod := netip.AddrFrom4([4]byte{10, 64, 0, byte(len(k.pods) + 1)})
		if err := d.Pods.Put(bpf.Pod{Addrs: []netip.Addr{pod}, Link: 1, Parent: 1, Scope: scope}); err != nil {
			t.Fatal(err)
		}
		k.pods[scope] = pod
	}
	if err := errors.Join(d.Answers.SetServers([]netip.Addr{dnsServer}), d.Answers.Beat()); err != nil {
		t.Fatal(err)
	}
	return k
}

// Ask has the program of a pod's link answer.
func (k *realKernel) Ask(name string, qtype uint16, scope uint32) *dns.Msg {
	k.t.Helper()
	query, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		k.t.Fatal(err)
	}
	raw, err := k.datapath.Ask(k.pods[scope], dnsServer, query)
	if err != nil {
		k.t.Fatal(err)
	}
	if raw == nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		k.t.Fatal(err)
	}
	return m
}

// Keys are the answers that it holds.
func (k *realKernel) Keys() []bpf.AnswerKey {
	var keys []bpf.AnswerKey
	for a, err := range k.All() {
		if err != nil {
			k.t.Fatal(err)
		}
		if a.Type != 0 {
			keys = append(keys, a.AnswerKey)
		}
	}
	return keys
}

func TestHotNameStaysInThisKernel(t *testing.T) { checkHotName(t, loadKernel(t, 0), 5, 1000) }

func TestSearchesInThisKernel(t *testing.T) { checkSearches(t, loadKernel(t, 0, 7, 8)) }

// What one agent has published is kept fresh by the next, and given meanwhile.
func TestNextAgentAdopts(t *testing.T) {
	k := loadKernel(t, 0)
	up := startUpstream(t, 3)
	body := "answers\n" + cacheBody + "forward . " + up.addr + " {\n prefer_udp\n}\n"
	first := nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{Answers: k})
	Provide(Node{External: first})
	stop := run(t, first)
	<-first.Ready()
	published := new(dns.Msg).SetQuestion(www, dns.TypeA)
	published.Response = true
	for _, name := range []string{www, "www.example.net."} {
		m := published.Copy()
		m.Question[0].Name = name
		rr, err := dns.NewRR(name + " 3 IN A 192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
		for scope := range uint32(2) {
			for range 2 {
				first.Observe(first.Era(), bpf.AnswerKey{Name: name, Type: dns.TypeA}, nodelocaldns.ExternalReply{Msg: m, Scope: scope})
			}
		}
	}
	stop()
	if keys := k.Keys(); len(keys) != 4 {
		t.Fatalf("%v are in the kernel", keys)
	}
	n := startNodeOn(t, k, body, Node{}, nodelocaldns.ExternalConfig{})
	<-n.external.Ready()
	if keys := k.Keys(); len(keys) != 2 || n.external.Counts().Held != 2 {
		t.Fatalf("%v are in the kernel, %+v", keys, n.external.Counts())
	}
	n.until("refreshed", func() bool { n.ask(www, dns.TypeA, 0); return n.external.Counts().Refreshed > 0 })
	if top := n.external.Top(2); len(top) != 2 || top[0].Name != www {
		t.Errorf("top %+v", top)
	}
}

// What the kernel gives of names outside is what the server gives, to the record.
func TestKernelGivesWhatTheServerGives(t *testing.T) {
	k := loadKernel(t, 0)
	up := startUpstream(t, 300)
	zone := map[string][]string{
		"one.example.com. A":    {"one.example.com. 300 IN A 192.0.2.1"},
		"six.example.com. AAAA": {"six.example.com. 300 IN AAAA 2001:db8::1", "six.example.com. 300 IN AAAA 2001:db8::2"},
		"alias.example.com. A": {
			"alias.example.com. 300 IN CNAME a.CDN.example.net.", "a.CDN.example.net. 60 IN CNAME b.cdn.example.net.",
			"b.cdn.example.net. 20 IN A 192.0.2.2", "b.cdn.example.net. 20 IN A 192.0.2.3", "b.cdn.example.net. 20 IN A 192.0.2.4",
		},
		"example.com. MX":          {"example.com. 300 IN MX 10 mail.example.com.", "example.com. 300 IN MX 20 mail.example.net."},
		"txt.example.com. TXT":     {`txt.example.com. 300 IN TXT "v=spf1 -all" "more"`},
		"_x._tcp.example.com. SRV": {"_x._tcp.example.com. 300 IN SRV 1 2 443 one.example.com."},
		"web.example.com. HTTPS":   {`web.example.com. 300 IN HTTPS 1 . alpn="h2" ipv4hint="192.0.2.5"`},
		"c.example.com. CNAME":     {"c.example.com. 300 IN CNAME one.example.com."},
		"www.example.com. AAAA":    nil, // no data
		"no.example.com. A":        nil,
		"no.such.example.com. TXT": nil,
	}
	up.set(func(u *upstream) {
		u.zone = map[string][]string{}
		for question, records := range zone {
			if records != nil {
				u.zone[question] = records
			}
		}
	})
	n := startNodeOn(t, k, "answers\n"+cacheBody+"forward . "+up.addr+" {\n prefer_udp\n}\n", Node{}, nodelocaldns.ExternalConfig{})
	for question := range zone {
		name, typ, _ := strings.Cut(question, " ")
		name, qtype := strings.ToUpper(name[:2])+name[2:], dns.StringToType[typ]
		var server *dns.Msg
		for range 2 {
			server = n.exchange(new(dns.Msg).SetQuestion(name, qtype))
		}
		kernel := k.Ask(name, qtype, 0)
		if kernel == nil {
			t.Errorf("%s: not in the kernel; the server gives\n%v", question, server)
			continue
		}
		if got, want := canonical(kernel), canonical(server); got != want {
			t.Errorf("%s: the kernel gives\n%s\nthe server\n%s", question, got, want)
		}
	}
}

// canonical is a message without its id, the order of records, the seconds that may have passed, and the case of names,
// which in the kernel is the client's where they are those of the question.
func canonical(m *dns.Msg) string {
	m = m.Copy()
	m.Id = 0
	var b strings.Builder
	fmt.Fprintln(&b, m.MsgHdr.String(), m.Question)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			if rr.Header().Ttl = (rr.Header().Ttl + 9) / 10 * 10; rr.Header().Rrtype != dns.TypeOPT {
				lines = append(lines, strings.ToLower(rr.String()))
			}
		}
		slices.Sort(lines)
		fmt.Fprintln(&b, strings.Join(lines, "\n"))
	}
	return b.String()
}
