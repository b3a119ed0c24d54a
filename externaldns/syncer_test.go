package externaldns

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A fakeDesired is what the test wants.
type fakeDesired struct {
	mu    sync.Mutex // guards wants
	wants map[string][]Want
}

func (d *fakeDesired) For(name string) []Want {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wants[name]
}

func (d *fakeDesired) All() iter.Seq2[string, []Want] {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.All(maps.Clone(d.wants))
}

func (d *fakeDesired) set(name string, wants []Want) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wants == nil {
		d.wants = map[string][]Want{}
	}
	if len(wants) == 0 {
		delete(d.wants, name)
		return
	}
	d.wants[name] = wants
}

// seen collects Problems.
type seen struct {
	mu   sync.Mutex // guards list
	list []Problem
}

func (s *seen) Report(p Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, p)
}

func (s *seen) reasons() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.list {
		list = append(list, p.Object.String()+" "+p.Reason)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// A rig is a Syncer at work on a fake cloud.
type rig struct {
	*Syncer
	t       *testing.T
	cloud   *fakeCloud
	desired *fakeDesired
	seen    *seen
	stop    func()
}

func start(t *testing.T, cloud *fakeCloud, desired *fakeDesired, changes ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, cloud: cloud, desired: desired, seen: &seen{}}
	cfg := Config{Policy: Policy{Owner: "me"}, Cloud: cloud, Desired: desired, Reporter: r.seen}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	if r.Syncer, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// want changes what is wanted of a name of zone corp: "A 10.0.0.1" and so on.
func (r *rig) want(rr string, values ...string) {
	r.desired.set(rr+".corp", wantsFor(rr, values...))
	r.Touch(rr + ".corp")
}

func wantsFor(rr string, values ...string) (wants []Want) {
	for _, v := range values {
		var recordType, value string
		fmt.Sscanf(v, "%s %s", &recordType, &value)
		wants = append(wants, Want{Name: rr + ".corp", Type: recordType, Value: value, TTL: 60, Object: service(rr)})
	}
	return wants
}

func desire(n int, name string) *fakeDesired {
	d := &fakeDesired{}
	for i := range n {
		rr := fmt.Sprintf("%s-%d", name, i)
		d.set(rr+".corp", wantsFor(rr, "A "+address(i)))
	}
	return d
}

func (r *rig) expect(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, r.cloud.shown("z-1"), cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("zone:\n%s", diff)
	}
}

func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func corp() *fakeCloud { return newFakeCloud(bound("z-1", "corp")) }

func TestSyncerFollowsChangesWithOneCallEach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.latency = 50 * time.Millisecond
		r := start(t, cloud, &fakeDesired{})
		<-r.Ready()
		wait(time.Second)
		for _, c := range []struct {
			values []string
			calls  int
			shown  []string
		}{
			{[]string{"A 10.0.0.1"}, 1, []string{"web A 10.0.0.1 me"}},
			{[]string{"A 10.0.0.2"}, 1, []string{"web A 10.0.0.2 me"}},
			{[]string{"A 10.0.0.2", "AAAA fd00::1"}, 1, []string{"web A 10.0.0.2 me", "web AAAA fd00::1 me"}},
			{[]string{"CNAME a.corp"}, 3, []string{"web CNAME a.corp me"}},
			{[]string{"A 10.0.0.1", "A 10.0.0.2"}, 3, []string{"web A 10.0.0.1 me", "web A 10.0.0.2 me"}},
			{nil, 2, nil},
		} {
			before := cloud.count()
			r.want("web", c.values...)
			wait(2 * time.Second)
			if got := cloud.count() - before; got != c.calls {
				t.Errorf("%v took %d calls: %v", c.values, got, cloud.since(before))
			}
			r.expect(c.shown...)
		}
		if got := r.seen.reasons(); len(got) > 0 {
			t.Error(got)
		}
	})
}

func TestSyncerStartsFromWhatIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 250)
		cloud.seed("z-1", "you", "sibling", 50)
		cloud.seed("z-1", "", "foreign", 50)
		r := start(t, cloud, desire(250, "web"))
		<-r.Ready()
		wait(time.Minute / 2)
		if n := cloud.writes(); n > 0 {
			t.Errorf("%d writes to a zone that is as it shall be", n)
		}
		if n := cloud.acted()["DescribeZoneRecords"]; n != 4 {
			t.Errorf("%d calls to list 350 records", n)
		}
		r.want("web-0", "A 10.0.0.0", "A 10.9.9.9")
		r.want("web-1")
		wait(3 * time.Second)
		if n := cloud.writes(); n != 2 {
			t.Errorf("%d writes, want 2", n)
		}
	})
}

func TestSyncerWaitsForObjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 5)
		synced := make(chan struct{})
		r := start(t, cloud, &fakeDesired{}, func(c *Config) { c.Synced = synced })
		r.want("new", "A 10.0.0.1")
		wait(time.Hour)
		if n := cloud.writes(); n > 0 {
			t.Fatalf("%d writes before the objects are synced", n)
		}
		r.desired.set("web-0.corp", wantsFor("web-0", "A 10.0.0.0"))
		close(synced)
		<-r.Ready()
		wait(10 * time.Second)
		r.expect("new A 10.0.0.1 me", "web-0 A 10.0.0.0 me")
	})
}

func TestSyncerOnlyLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud, leading := corp(), make(chan bool)
		r := start(t, cloud, desire(3, "web"), func(c *Config) { c.Leading = leading })
		<-r.Ready()
		wait(time.Hour)
		if n := cloud.count(); n > 0 {
			t.Fatalf("%d calls without the lead", n)
		}
		leading <- true
		wait(time.Minute)
		if n := cloud.writes(); n != 3 {
			t.Errorf("%d writes with the lead", n)
		}
		leading <- false
		r.want("web-3", "A 10.0.0.3")
		cloud.edit(aliyun.ZoneRecord{ID: 1})
		wait(time.Hour)
		if n := cloud.writes(); n != 3 {
			t.Errorf("%d writes after the lead was lost", n)
		}
		leading <- true
		wait(time.Minute)
		r.expect("web-0 A 10.0.0.0 me", "web-1 A 10.0.0.1 me", "web-2 A 10.0.0.2 me", "web-3 A 10.0.0.3 me")
	})
}

// A readOnly cloud has writes that nobody may call.
type readOnly struct {
	*fakeCloud
	Writer
}

func (readOnly) UpdateRecord(context.Context, aliyun.UpdateRecord) error    { panic("written") }
func (readOnly) AddRecord(context.Context, aliyun.AddRecord) (int64, error) { panic("written") }
func (readOnly) SetRemark(context.Context, int64, string, string) error     { panic("written") }
func (readOnly) DeleteRecord(context.Context, int64, string) error          { panic("written") }

func TestDryRunCannotWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "old", 5)
		cloud.seed("z-1", "", "web", 1)
		d := desire(5, "web")
		d.set("old-0.corp", wantsFor("old-0", "A 10.9.9.9"))
		r := start(t, cloud, d, func(c *Config) { c.DryRun, c.Cloud, c.Policy.Claim = true, readOnly{fakeCloud: cloud}, true })
		<-r.Ready()
		wait(10 * time.Hour)
		for _, w := range []Writer{r.write} {
			if _, ok := w.(dryRun); !ok {
				t.Errorf("the writer is a %T", w)
			}
		}
	})
}

func TestSyncerRepairsEditsOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		r := start(t, cloud, desire(5, "web"))
		wait(30 * time.Second)
		ids := map[string]aliyun.ZoneRecord{}
		for _, rec := range cloud.all("z-1") {
			ids[rec.RR] = rec
		}
		edited, lost := ids["web-1"], ids["web-2"]
		edited.Value, lost.Remark = "10.9.9.9", "mine now"
		cloud.edit(aliyun.ZoneRecord{ID: ids["web-0"].ID})
		cloud.edit(edited)
		cloud.edit(lost)
		wait(62 * time.Second)
		r.expect("web-0 A 10.0.0.0 me", "web-1 A 10.0.0.1 me", "web-2 A 10.0.0.2 -", "web-3 A 10.0.0.3 me", "web-4 A 10.0.0.4 me")
		if got := r.seen.reasons(); !slices.Equal(got, []string{"PrivateZone/z-1 RemarkLost"}) {
			t.Error(got)
		}
		before := cloud.count()
		wait(10 * time.Minute)
		if n := cloud.count() - before; n > 20 {
			t.Errorf("%d calls in 10 idle minutes", n)
		}
	})
}

func TestOneBadRecordAmongMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.rate, cloud.latency = 20, 50*time.Millisecond
		d := desire(500, "web")
		d.set("web-7.corp", wantsFor("web-7", "A 10.0.0.7", "TXT bad"))
		d.set("web.nowhere", []Want{{Name: "web.nowhere", Type: "A", Value: "10.0.0.1", TTL: 60, Object: service("nowhere")}})
		r := start(t, cloud, d)
		wait(time.Minute)
		if n := len(cloud.shown("z-1")); n != 500 {
			t.Errorf("%d of 500 records", n)
		}
		if got := r.seen.reasons(); !slices.Equal(got, []string{"Service/default/nowhere NoZone", "Service/default/web-7 RecordRefused"}) {
			t.Error(got)
		}
		before := cloud.count()
		r.want("web-7", "A 10.0.0.7", "TXT good")
		wait(2 * time.Second)
		if !slices.Contains(cloud.shown("z-1"), "web-7 TXT good me") {
			t.Error("a value that was put right is not published")
		}
		r.want("web-8", "A 10.0.0.8", "TXT bad")
		wait(8 * time.Hour)
		if n := cloud.acted()["AddZoneRecord"]; n < 510 || n > 530 {
			t.Errorf("what is refused was tried %d times in 8 hours", n-503)
		}
		if n := cloud.count() - before; n > 8*60*2+60 {
			t.Errorf("%d calls in 8 hours", n)
		}
	})
}

func TestSyncerSurvivesErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, fault := range map[string]error{
			"no credentials": aliyun.ErrForbidden, "throttled": aliyun.ErrThrottled, "away": aliyun.ErrUnavailable,
			"zone gone": aliyun.ErrZoneGone, "busy": aliyun.ErrConflict, "unknown": errors.New("what is this"),
		} {
			cloud := corp()
			cloud.seed("z-1", "me", "old", 3)
			until := time.Now().Add(10 * time.Minute)
			cloud.fault = func(int, string, bool) error {
				if time.Now().Before(until) {
					return fault
				}
				return nil
			}
			r := start(t, cloud, desire(100, "web"))
			wait(9 * time.Minute)
			if n := cloud.count(); n > 60 {
				t.Errorf("%s: %d calls in 9 minutes of failure", name, n)
			}
			if r.Status().Detail() == "" || len(r.seen.reasons()) != 1 {
				t.Errorf("%s: %v, detail %q", name, r.seen.reasons(), r.Status().Detail())
			}
			wait(5 * time.Minute)
			if got := cloud.shown("z-1"); len(got) != 100 {
				t.Errorf("%s: %d of 100 records, detail %q", name, len(got), r.Status().Detail())
			}
			r.stop()
		}
	})
}

func TestSyncerSurvivesErrorsOfWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, fault := range map[string]error{
			"no permission": aliyun.ErrForbidden, "throttled": aliyun.ErrThrottled, "away": aliyun.ErrUnavailable,
			"zone gone": aliyun.ErrZoneGone, "unknown": errors.New("what is this"),
		} {
			cloud := corp()
			cloud.latency = 50 * time.Millisecond
			until := time.Now().Add(10 * time.Minute)
			cloud.fault = func(_ int, call string, _ bool) error {
				if time.Now().Before(until) && call[0] == 'A' {
					return fault
				}
				return nil
			}
			r := start(t, cloud, desire(100, "web"))
			wait(9 * time.Minute)
			t.Logf("%s: %d calls, %v", name, cloud.count(), cloud.acted())
			if len(r.seen.reasons()) == 0 || r.Status().Detail() == "" {
				t.Errorf("%s: nobody is told", name)
			}
			wait(5 * time.Minute)
			if got := cloud.shown("z-1"); len(got) != 100 {
				t.Errorf("%s: %d of 100 records, detail %q", name, len(got), r.Status().Detail())
			}
			r.stop()
		}
	})
}
