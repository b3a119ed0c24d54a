package externaldns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A judged cloud notes every write of the Syncer to a record that is not ours at that moment.
type judged struct {
	*fakeCloud
	theirs map[int64]bool // made by the editor
	wrong  []string       // writes to those
	raced  []string       // writes to records of ours whose remark the editor had changed
}

func (c *judged) judge(id int64, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.records[id]
	switch {
	case !ok || Owner("me").Of(r.Remark) == Ours && !c.theirs[id]:
	case c.theirs[id]:
		c.wrong = append(c.wrong, fmt.Sprintf("%s %+v", what, r))
	default:
		c.raced = append(c.raced, fmt.Sprintf("%s %+v", what, r))
	}
}

func (c *judged) UpdateRecord(ctx context.Context, u aliyun.UpdateRecord) error {
	c.judge(u.ID, "update")
	return c.fakeCloud.UpdateRecord(ctx, u)
}

func (c *judged) SetRemark(ctx context.Context, id int64, remark, token string) error {
	c.judge(id, "remark")
	return c.fakeCloud.SetRemark(ctx, id, remark, token)
}

func (c *judged) DeleteRecord(ctx context.Context, id int64, token string) error {
	c.judge(id, "delete")
	return c.fakeCloud.DeleteRecord(ctx, id, token)
}

const hostileNames = 40

func randomValue(random *rand.Rand) (recordType, value string) {
	n := random.IntN(5)
	switch random.IntN(8) {
	case 0:
		return "CNAME", fmt.Sprintf("t%d.corp", n)
	case 1:
		return "TXT", fmt.Sprint("text", n)
	case 2:
		return "AAAA", fmt.Sprint("fd00::", n+1)
	}
	return "A", fmt.Sprint("10.0.0.", n)
}

// disturb is one edit of somebody who knows no manners: at names of ours, to records of ours and his own.
func (c *judged) disturb(random *rand.Rand, strip bool) {
	recordType, value := randomValue(random)
	n := aliyun.ZoneRecord{ZoneID: "z-1", RR: fmt.Sprint("web-", random.IntN(hostileNames)), Type: recordType, Value: value, TTL: 60, Enabled: true, Line: "default"}
	c.mu.Lock()
	var r aliyun.ZoneRecord
	if len(c.ids) > 0 {
		r = c.records[c.ids[random.IntN(len(c.ids))]]
	}
	theirs := c.theirs[r.ID]
	c.mu.Unlock()
	move := random.IntN(6)
	if move < 2 || r.ID == 0 {
		n.Remark = []string{"", "by hand", Owner("you").Remark(web), CCMRemark}[random.IntN(4)]
		id := c.edit(n)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.theirs[id] = true
		return
	}
	switch move {
	case 2:
		c.edit(aliyun.ZoneRecord{ID: r.ID})
		return
	case 3:
		r.Type, r.Value = recordType, value
	case 4:
		r.Enabled = !r.Enabled
	case 5:
		if theirs || !strip {
			r.TTL = 3600
		} else {
			r.Remark = "taken over"
		}
	}
	c.edit(r)
}

// hostile works beside the editor for so many operations, his and ours, and checks the zone when he is gone.
func hostile(t *testing.T, operations int, strip bool, stale time.Duration) (c *judged) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(operations)))
	c = &judged{fakeCloud: corp(), theirs: map[int64]bool{}}
	r := start(t, c.fakeCloud, &fakeDesired{}, func(cfg *Config) { cfg.Cloud, cfg.Stale, cfg.Limits.Percent = c, stale, 100 })
	for range operations / 2 {
		c.disturb(random, strip)
		rr := fmt.Sprint("web-", random.IntN(hostileNames))
		var values []string
		for range random.IntN(4) {
			kind, value := randomValue(random)
			values = append(values, kind+" "+value)
		}
		r.want(rr, values...)
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		c.mu.Lock()
		c.calls = c.calls[:0]
		c.mu.Unlock()
	}
	// He leaves, and takes what he made along: then the zone is as wanted.
	for id := range c.theirs {
		c.edit(aliyun.ZoneRecord{ID: id})
	}
	wait(6 * time.Hour) // two audits, what was held
	r.stop()
	synctest.Wait()
	for name, wants := range r.desired.wants {
		have := slices.DeleteFunc(c.in("z-1"), func(rec aliyun.ZoneRecord) bool { return rec.RR+".corp" != name })
		want := expected(wants, nil)
		got := serving(recordsOf(have, time.Time{}))
		if !slices.Equal(want, got) && !strings.Contains(fmt.Sprint(have), "taken over") {
			t.Errorf("%s serves %v, want %v", name, got, want)
		}
	}
	return c
}

func TestHostileEditor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := hostile(t, 100_000, false, 5*time.Minute)
		if len(c.wrong)+len(c.raced) > 0 {
			t.Errorf("%d writes to records of others, the first: %s", len(c.wrong)+len(c.raced), append(c.wrong, c.raced...)[0])
		}
		t.Logf("100,000 operations: %d writes to records of others; calls %v", len(c.wrong)+len(c.raced), c.acted())
	})
}

// TestHostileEditorTakesRecords has him also take over records of ours by their remark. Where every change is preceded by a
// look, none of those is written to either.
func TestHostileEditorTakesRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := hostile(t, 10_000, true, time.Nanosecond)
		if len(c.wrong)+len(c.raced) > 0 {
			t.Errorf("%d writes to records of others, the first: %s", len(c.wrong)+len(c.raced), append(c.wrong, c.raced...)[0])
		}
		t.Logf("10,000 operations: %d writes to records of others; calls %v", len(c.wrong)+len(c.raced), c.acted())
	})
}
