package nodelocaldns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// TestEveryWriteIsSafe: after each single write of a change the kernel says what it said before, what it says afterwards, or asks.
func TestEveryWriteIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, after := cluster.NewStore(), cluster.NewStore()
		before.Replace(drawObjects(t))
		after.Replace(drawObjects(t))
		answers := newFakeAnswers()
		p := newTestPublisher(t, answers, nil)
		p.Publish(cluster.Change{Snapshot: before.Snapshot(), Full: true})
		names := map[string]bool{}
		for _, s := range []*cluster.Snapshot{before.Snapshot(), after.Snapshot()} {
			for _, o := range p.plan.all(s) {
				for _, h := range p.plan.wanted(s, o) {
					names[h.name] = true
				}
			}
		}
		questions := slices.DeleteFunc(questionsAbout(), func(q dns.Question) bool {
			return !names[q.Name] || q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA && q.Qtype != dns.TypePTR && q.Qtype != dns.TypeSRV
		})
		type saying struct{ old, next string }
		allowed := map[dns.Question]saying{}
		for _, q := range questions {
			allowed[q] = saying{text(t, testZone.Answer(before.Snapshot(), q)), text(t, testZone.Answer(after.Snapshot(), q))}
		}
		answers.fail = func(write string) bool {
			for q, may := range allowed {
				if got := answers.says(t, q); got != may.old && got != may.next && got != asks {
					t.Fatalf("before %q, %s %s: the kernel says\n%s\nand not\n%s\nor\n%s", write, q.Name, dns.TypeToString[q.Qtype], got, may.old, may.next)
				}
			}
			return false
		}
		p.Publish(cluster.Change{Snapshot: after.Snapshot(), Full: true})
	})
}

// TestFailuresAreAsked: whatever cannot be written, the kernel never says what is not so, and it mends when writes work again.
func TestFailuresAreAsked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		store := cluster.NewStore()
		answers := newFakeAnswers()
		p := newTestPublisher(t, answers, nil)
		store.Replace(drawObjects(t))
		p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			room := rapid.IntRange(-4, 20).Draw(t, "room")
			answers.room = len(answers.entries) + room
			answers.fail = func(write string) bool {
				return (strings.HasPrefix(write, "put") || strings.HasPrefix(write, "name")) && rapid.IntRange(0, 5).Draw(t, write) == 0
			}
			store.Replace(drawObjects(t))
			p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
			checkSays(t, answers, store.Snapshot(), false)
		}
		answers.fail, answers.room = func(string) bool { return false }, 1<<20
		p.tend(time.Now().Add(2 * lastPublishRetry))
		if len(p.lost) > 0 || p.retry != 0 || !answers.zone.Complete {
			t.Fatalf("%d owners are lost, the next try is in %s, complete %t", len(p.lost), p.retry, answers.zone.Complete)
		}
		checkSays(t, answers, store.Snapshot(), true)
		fresh := newFakeAnswers()
		newTestPublisher(t, fresh, nil).Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
		if diff := cmp.Diff(fresh.entries, answers.entries); diff != "" {
			t.Fatalf("after the failures (-fresh +mended):\n%s", diff)
		}
	})
}

func valueOf(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

func TestAFailureIsCountedAndRetriedLater(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(testObjects())
	answers := newFakeAnswers()
	answers.fail = func(write string) bool { return write == "put cart.shop.svc.cluster.local. A" }
	p := newTestPublisher(t, answers, nil)
	p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	cart := dns.Question{Name: "cart.shop.svc.cluster.local.", Qtype: dns.TypeAAAA}
	if got := answers.says(t, cart); got != asks || !answers.zone.Complete {
		t.Errorf("the kernel says %s of a name that could not be written, complete %t", got, answers.zone.Complete)
	}
	if got := valueOf(t, p.metrics.failures); got != 1 {
		t.Errorf("%v failures counted, want 1", got)
	}
	if got := valueOf(t, p.metrics.lost); got != 1 {
		t.Errorf("%v owners unpublished, want 1", got)
	}
	select {
	case <-p.Ready():
	default:
		t.Error("one name holds all others up")
	}
	writes := len(answers.log)
	p.tend(time.Now())
	if len(answers.log) != writes {
		t.Errorf("tried again at once: %v", answers.log[writes:])
	}
	answers.fail = func(string) bool { return false }
	p.tend(time.Now().Add(firstPublishRetry))
	if got := answers.says(t, cart); !strings.HasSuffix(got, "AAAA fd00::7") {
		t.Errorf("after the retry the kernel says %s", got)
	}
	if got := valueOf(t, p.metrics.lost); got != 0 {
		t.Errorf("%v owners unpublished after the retry", got)
	}
}

func TestNothingIsDeniedWhileANameIsUnknown(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(testObjects())
	answers := newFakeAnswers()
	answers.fail = func(write string) bool { return strings.Contains(write, " cart.shop.") }
	p := newTestPublisher(t, answers, nil)
	p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	if answers.zone.Complete || answers.zone.Domain == "" {
		t.Errorf("the zone is %+v, want one that is not complete", answers.zone)
	}
	answers.fail = func(string) bool { return false }
	p.tend(time.Now().Add(firstPublishRetry))
	if !answers.zone.Complete {
		t.Error("the zone is not complete after the retry")
	}
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(testObjects())
	answers := newFakeAnswers()
	newTestPublisher(t, answers, nil).Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	held := len(answers.entries)
	answers.log = nil
	for _, k := range []bpf.AnswerKey{{Name: "old.shop.svc.cluster.local."}, {Name: "old.shop.svc.cluster.local.", Type: dns.TypeA}} {
		answers.entries[k] = bpf.Answer{AnswerKey: k}
	}
	others := []bpf.Answer{
		{AnswerKey: bpf.AnswerKey{Name: "www.example.com.", Type: dns.TypeA}, AnswerLife: bpf.AnswerLife{Aged: true, Expires: time.Minute}},
		{AnswerKey: bpf.AnswerKey{Name: "www.example.com.shop.svc.cluster.local.", Type: dns.TypeA, Scope: 7}},
	}
	for _, a := range others {
		answers.entries[a.AnswerKey] = a
	}
	var told []string
	calls := 0
	p := newTestPublisher(t, answers, func(names []string) { told, calls = names, calls+1 })
	p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	if want := []string{"delete old.shop.svc.cluster.local. None", "delete old.shop.svc.cluster.local. A"}; !slices.Equal(answers.log, want) {
		t.Errorf("an agent that starts with all published writes %q, want %q", answers.log, want)
	}
	if len(answers.entries) != held+len(others) {
		t.Errorf("%d entries, want %d and those of others", len(answers.entries), held)
	}
	if told != nil || calls != 1 {
		t.Errorf("at the start %d calls, the last with %v, want one for all", calls, told)
	}
}

func TestAKernelThatCannotBeReadSaysNothing(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(testObjects())
	answers := newFakeAnswers()
	answers.zone.Complete = true // from before
	answers.fail = func(write string) bool { return write == "read" }
	p := newTestPublisher(t, answers, nil)
	p.Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	if answers.zone != (bpf.AnswerZone{}) || len(answers.log) > 0 {
		t.Errorf("zone %+v, writes %v", answers.zone, answers.log)
	}
	answers.fail = func(string) bool { return false }
	p.tend(time.Now().Add(firstPublishRetry))
	if !answers.zone.Complete {
		t.Error("not published after the retry")
	}
}

func TestNothingIsPublishedBeforeSync(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) { e.PutNamespace("shop") })
	answers := newFakeAnswers()
	newTestPublisher(t, answers, nil).Publish(cluster.Change{Snapshot: store.Snapshot(), Full: true})
	if len(answers.entries) > 0 || answers.zone != (bpf.AnswerZone{}) {
		t.Errorf("before sync: %v, zone %+v", answers.log, answers.zone)
	}
}

func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(testObjects())
	sub := store.Subscribe(cluster.Services, cluster.Namespaces)
	defer sub.Close()
	var told [][]string
	p := newTestPublisher(t, newFakeAnswers(), func(names []string) { told = append(told, names) })
	p.Publish(nextChange(t, sub, false))
	for _, step := range []struct {
		what string
		do   func(*cluster.Edit)
		want []string
	}{
		{"new Service", func(e *cluster.Edit) { e.PutService(service("new", "10.96.0.77")) }, []string{"new.shop.svc.cluster.local."}},
		{"endpoint of a cluster IP", func(e *cluster.Edit) {
			e.PutSlice(slice("new", "new-1", nil, endpoint("10.0.9.1", "")))
			e.PutSlice(slice("new", "new-2", nil, endpoint("10.0.9.2", "")))
		}, []string{"new.shop.svc.cluster.local."}}, // endpoints have names below it now
		{"another endpoint of it", func(e *cluster.Edit) { e.PutSlice(slice("new", "new-1", nil, endpoint("10.0.9.3", ""))) }, nil},
		{"other target", func(e *cluster.Edit) {
			ext := service("ext")
			ext.ExternalName = "www.example.org"
			e.PutService(ext)
		}, []string{"ext.shop.svc.cluster.local."}},
		{"headless endpoint", func(e *cluster.Edit) { e.PutSlice(slice("six", "six-1", nil, endpoint("fd00::2:0:1", ""))) }, []string{"six.shop.svc.cluster.local."}},
		{"deletion", func(e *cluster.Edit) { e.DeleteService(cluster.Name{Namespace: "shop", Name: "new"}) }, []string{"new.shop.svc.cluster.local."}},
	} {
		told = nil
		store.Update(step.do)
		p.Publish(nextChange(t, sub, false))
		if got := slices.Concat(told...); !slices.Equal(got, step.want) {
			t.Errorf("%s: told %v, want %v", step.what, got, step.want)
		}
	}
}

// TestOpsPrint is what the log shows of a change.
func TestOpsPrint(t *testing.T) {
	t.Parallel()
	p := newPlanner(testZone)
	p.stored = narrow
	s := testSnapshot()
	of := func(name string) []held {
		return p.wanted(s, owner{kind: ownsService, name: cluster.Name{Namespace: "shop", Name: name}})
	}
	var got []string
	for _, have := range []struct{ from, to string }{{"nobody", "cart"}, {"nobody", "db"}, {"nobody", "ext"}, {"4single", "nobody"}} {
		for _, op := range difference(of(have.from), of(have.to)) {
			got = append(got, op.String())
		}
	}
	want := []string{
		"hold cart.shop.svc.cluster.local. A (61 bytes)",
		"hold cart.shop.svc.cluster.local. AAAA (73 bytes)",
		"hold name cart.shop.svc.cluster.local. (has addresses, ask SRV, ask below)",
		"hold db-0.db.shop.svc.cluster.local. A (64 bytes)",
		"hold db-0.db.shop.svc.cluster.local. AAAA (76 bytes)",
		"hold name db-0.db.shop.svc.cluster.local. (has addresses, ask SRV)",
		"hold db-1.db.shop.svc.cluster.local. A (80 bytes)",
		"hold name db-1.db.shop.svc.cluster.local. (has addresses, ask SRV)",
		"hold db.shop.svc.cluster.local. A (107 bytes)",
		"hold db.shop.svc.cluster.local. AAAA (71 bytes)",
		"hold name db.shop.svc.cluster.local. (has addresses, ask SRV, ask below)",
		"hold name ext.shop.svc.cluster.local. (ask all)",
		"forget name 4single.shop.svc.cluster.local.",
		"forget 4single.shop.svc.cluster.local. A",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLargeSets: what cannot be held is asked for, by type, and is not even made.
func TestLargeSets(t *testing.T) {
	t.Parallel()
	store := cluster.NewStore()
	store.Replace(cluster.Objects{Namespaces: []string{"shop"}})
	for _, tt := range []struct {
		endpoints int
		want      []string
	}{
		{40, []string{"hold big.shop.svc.cluster.local. A (684 bytes)", "hold name big.shop.svc.cluster.local. (has addresses, ask SRV, ask below)"}},
		{60, []string{"hold name big.shop.svc.cluster.local. (has addresses, ask A, ask SRV, ask below)"}},
		{200, []string{"hold name big.shop.svc.cluster.local. (has addresses, ask A, ask SRV, ask below)"}},
	} {
		big := service("big")
		big.Headless = true
		var endpoints []cluster.Endpoint
		for i := range tt.endpoints {
			endpoints = append(endpoints, endpoint(fmt.Sprintf("10.1.0.%d", i), ""))
		}
		store.Update(func(e *cluster.Edit) {
			e.PutService(big)
			e.PutSlice(slice("big", "big-1", nil, endpoints...))
		})
		var got []string
		for _, op := range difference(nil, newPlanner(testZone).wanted(store.Snapshot(), owner{kind: ownsService, name: big.Name})) {
			got = append(got, op.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%d endpoints (-want +got):\n%s", tt.endpoints, diff)
		}
	}
}
