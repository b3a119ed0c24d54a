//go:build node

package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
)

// TestAnswersAreKept reads back what was put, also by another Datapath on the same pins, and takes it back.
func TestAnswersAreKept(t *testing.T) {
	cfg := node(t)
	d := loadAnswersOn(t, cfg)
	large := answerTo("a.example.", dns.TypeTXT)
	large.Answer = []dns.RR{text(1, 200)}
	key := func(rrtype uint16, scope uint32) AnswerKey { return AnswerKey{"a.example.", rrtype, scope} }
	put := map[AnswerKey]*dns.Msg{
		key(dns.TypeA, 0):   answerTo("A.example.", dns.TypeA, "A.example. 5 IN A 192.0.2.1"),
		key(dns.TypeA, 3):   answerTo("a.example.", dns.TypeA, "a.example. 5 IN A 192.0.2.2"),
		key(dns.TypeA, 4):   answerTo("a.example.", dns.TypeA, "a.example. 5 IN A 192.0.2.3"),
		key(dns.TypeTXT, 0): large,
	}
	want := map[AnswerKey]Answer{}
	for k, m := range put {
		b, err := m.Pack()
		if err == nil {
			err = d.Answers.Put(k, b, AnswerLife{Aged: k.Scope == 3, Expires: time.Duration(k.Scope) * time.Hour})
		}
		if err != nil {
			t.Fatal(err)
		}
		stored, err := StoredAnswer(k, b)
		if err != nil {
			t.Fatal(err)
		}
		want[k] = Answer{AnswerKey: k, AnswerLife: AnswerLife{Aged: k.Scope == 3, Expires: time.Duration(k.Scope) * time.Hour}, Response: stored}
	}
	for name, flags := range map[string]NameFlags{"a.example": NameAskSRV | NameAddresses, longName: NameAskAll} {
		if err := d.Answers.PutName(name, flags); err != nil {
			t.Fatal(err)
		}
		k := AnswerKey{Name: dns.Fqdn(name)}
		want[k] = Answer{AnswerKey: k, Names: flags}
	}
	wantAnswers(t, d.Answers, want)
	other, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	wantAnswers(t, other.Answers, want)

	// What was large may be small, and what was small large.
	small := answerTo("a.example.", dns.TypeTXT, `a.example. 5 IN TXT "x"`)
	replace(t, other.Answers, want, key(dns.TypeTXT, 0), small)
	replace(t, other.Answers, want, key(dns.TypeTXT, 0), large)
	wantAnswers(t, d.Answers, want)

	if err := d.Answers.DropScope(3); err != nil {
		t.Fatal(err)
	}
	delete(want, key(dns.TypeA, 3))
	wantAnswers(t, d.Answers, want)
	if err := d.Answers.DropScoped(); err != nil {
		t.Fatal(err)
	}
	delete(want, key(dns.TypeA, 4))
	wantAnswers(t, d.Answers, want)
	for k := range want {
		for range 2 {
			if err := d.Answers.Delete(k); err != nil {
				t.Error(err)
			}
		}
	}
	wantAnswers(t, d.Answers, nil)
	var keys, values = new(sockAnswerKey), new(sockLargeAnswer)
	if d.objs.DnsLarge.Iterate().Next(keys, values) {
		t.Errorf("left in dns_large: %+v", keys)
	}
}

func replace(t *testing.T, a *Answers, want map[AnswerKey]Answer, k AnswerKey, m *dns.Msg) {
	t.Helper()
	b, err := m.Pack()
	if err == nil {
		err = a.Put(k, b, AnswerLife{})
	}
	if err != nil {
		t.Fatal(err)
	}
	answer := want[k]
	if answer.Response, err = StoredAnswer(k, b); err != nil {
		t.Fatal(err)
	}
	want[k] = answer
}

// wantAnswers compares what All and Lookup say. Times are compared to a minute.
func wantAnswers(t *testing.T, a *Answers, want map[AnswerKey]Answer) {
	t.Helper()
	opts := cmp.Options{cmpopts.IgnoreFields(Answer{}, "Age", "Hits"), cmpopts.EquateEmpty(), cmp.Comparer(func(a, b time.Duration) bool {
		return (a - b).Abs() < time.Minute
	})}
	got := map[AnswerKey]Answer{}
	for answer, err := range a.All() {
		if err != nil {
			t.Fatal(err)
		}
		got[answer.AnswerKey] = answer
		if one, ok, err := a.Lookup(answer.AnswerKey); err != nil || !ok || !cmp.Equal(one, answer, opts) {
			t.Errorf("Lookup: %+v, %t, %v, and %+v of All", one, ok, err, answer)
		}
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, ok, err := a.Lookup(AnswerKey{Name: "b.example.", Type: dns.TypeA}); ok || err != nil {
		t.Errorf("found what was not put: %t, %v", ok, err)
	}
}

// TestAnswersFull: what finds no room says so, and what is there can still be replaced.
func TestAnswersFull(t *testing.T) {
	cfg := node(t)
	cfg.Answers = 4
	a := loadAnswersOn(t, cfg).Answers
	var err error
	put := 0
	for ; err == nil && put < 100; put++ {
		err = a.PutName(fmt.Sprintf("n%d.example", put), 0)
	}
	if !errors.Is(err, ErrFull) || put < 5 {
		t.Fatalf("the name %d: %v, want that the map is full", put, err)
	}
	if err := a.PutName("n0.example", NameAskAll); err != nil {
		t.Errorf("a name that is there: %v", err)
	}
	if got, ok, err := a.Lookup(AnswerKey{Name: "n0.example."}); !ok || got.Names != NameAskAll {
		t.Errorf("%+v, %t, %v", got, ok, err)
	}
	if err := errors.Join(a.DeleteName("n1.example"), a.PutName("n99.example", 0)); err != nil {
		t.Errorf("a name in the place of another: %v", err)
	}
}

// TestAgentIsAway: names are denied for 30 seconds after the agent's last sign of life, and known ones answered for an hour.
func TestAgentIsAway(t *testing.T) {
	d := newDuel(t)
	for away, want := range map[time.Duration]map[string]string{
		0:                            {"cart": "NOERROR", "nobody": "NXDOMAIN", "none": "NOERROR"},
		AbsenceGrace + time.Second:   {"cart": "NOERROR", "nobody": "", "none": "NOERROR"},
		AnswersGrace + time.Second:   {"cart": "", "nobody": "", "none": ""},
		AnswersGrace - 5*time.Second: {"cart": "NOERROR", "nobody": "", "none": "NOERROR"},
	} {
		d.beat(t)
		d.ref.alive -= away
		d.Answers.zone.Alive = uint64(d.ref.alive)
		for name, status := range want {
			m := d.ask(t, 0, name+".shop.svc.cluster.local.", dns.TypeA)
			got := ""
			if m != nil {
				got = dns.RcodeToString[m.Rcode]
			}
			if got != status {
				t.Errorf("%s, with the agent away for %s: %q, want %q", name, away, got, status)
			}
		}
		for _, m := range questions() {
			b, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			d.fire(t, shot{payload: b})
		}
	}
}

// ask asks as one of the pods, by IPv4. The result is nil for what goes on.
func (d *duel) ask(t *testing.T, pod int, name string, rrtype uint16) *dns.Msg {
	t.Helper()
	b, err := new(dns.Msg).SetQuestion(name, rrtype).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := d.Ask(d.pods[pod].Addrs[0], addrs(dnsServers)[0], b)
	if err != nil {
		t.Fatal(err)
	}
	if reply == nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRotationIsFair: each address comes first as often as the others, within five standard deviations.
func TestRotationIsFair(t *testing.T) {
	d := newDuel(t)
	const n = 1600
	first := map[string]int{}
	for range n {
		first[d.ask(t, 0, "many.shop.svc.cluster.local.", dns.TypeA).Answer[0].(*dns.A).A.String()]++
	}
	for addr, times := range first {
		if times < n/16-50 || times > n/16+50 {
			t.Errorf("%s came first %d times of %d", addr, times, n)
		}
	}
	if len(first) != 16 {
		t.Errorf("%d addresses came first: %v", len(first), first)
	}
}

// TestScopes: an answer for a scope is its pods' alone, and they are not told what a search would end with.
func TestScopes(t *testing.T) {
	d := newDuel(t)
	for name, want := range map[string][2]string{
		"www.example.com.shop.svc.cluster.local. A": {"NXDOMAIN", "NOERROR"},
		"nobody.shop.svc.cluster.local. A":          {"NXDOMAIN", ""},
		"nobody.shop.svc.cluster.local. TXT":        {"NXDOMAIN", "NXDOMAIN"},
		"cart.shop.svc.cluster.local. A":            {"NOERROR", "NOERROR"},
		"cart.shop.svc.cluster.local. AAAA":         {"NOERROR", "NOERROR"},
		"none.shop.svc.cluster.local. AAAA":         {"NOERROR", ""},
		"none.shop.svc.cluster.local. SRV":          {"NOERROR", "NOERROR"},
	} {
		owner, rrtype, _ := strings.Cut(name, " ")
		for pod, status := range want {
			got := ""
			if m := d.ask(t, pod, owner, dns.StringToType[rrtype]); m != nil {
				got = dns.RcodeToString[m.Rcode]
			}
			if got != status {
				t.Errorf("%s of pod %d: %q, want %q", name, pod, got, status)
			}
		}
	}
}

// TestCountsBelongToPods: a pod that comes gets counts of its own, whoever had its number before.
func TestCountsBelongToPods(t *testing.T) {
	d := newDuel(t)
	counts := func() (out []uint64) {
		all, err := d.Answers.Counts()
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range d.pods {
			out = append(out, all[pod.Addrs[0]].Hit)
		}
		return out
	}
	cart := func(pod int) { d.ask(t, pod, "cart.shop.svc.cluster.local.", dns.TypeA) }
	cart(0)
	cart(0)
	cart(1)
	again := d.pods[0]
	again.Scope = 9
	if err := d.Pods.Put(again); err != nil {
		t.Fatal(err)
	}
	if got := counts(); !slices.Equal(got, []uint64{2, 1}) {
		t.Errorf("counted %d, want 2 and 1", got)
	}
	if err := errors.Join(d.Pods.Delete(d.pods[0].Addrs), d.Pods.Put(d.pods[0])); err != nil {
		t.Fatal(err)
	}
	cart(0)
	if got := counts(); !slices.Equal(got, []uint64{1, 1}) {
		t.Errorf("counted %d of a pod that came back, want 1 and 1", got)
	}
}
