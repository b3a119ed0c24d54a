package externaldns

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A fakeCloud keeps zones in memory, by the API's rules. With a rate, each action has so many calls a second, and calls
// wait as the client's do.
type fakeCloud struct {
	latency time.Duration
	rate    float64
	// fault is asked with the number of each call, from 1, before and after it takes effect.
	fault func(n int, call string, after bool) error

	mu      sync.Mutex // guards what follows
	zones   map[string]*aliyun.Zone
	records map[int64]aliyun.ZoneRecord
	ids     []int64 // of records, sorted
	log     []aliyun.ZoneChange
	next    int64
	tokens  map[string]int64
	calls   []string
	actions map[string]int
	slot    map[string]time.Time
}

func newFakeCloud(zones ...aliyun.Zone) *fakeCloud {
	c := &fakeCloud{
		zones: map[string]*aliyun.Zone{}, records: map[int64]aliyun.ZoneRecord{}, tokens: map[string]int64{},
		actions: map[string]int{}, slot: map[string]time.Time{},
	}
	for _, z := range zones {
		c.zones[z.ID] = &z
	}
	return c
}

// do makes a call: it waits for the budget and the network, and runs the effect between the chances to fail.
func (c *fakeCloud) do(ctx context.Context, action, what string, effect func() error) error {
	if err := c.pace(ctx, action); err != nil {
		return err
	}
	c.mu.Lock()
	call := action + " " + what
	c.calls = append(c.calls, call)
	c.actions[action]++
	n := len(c.calls)
	c.mu.Unlock()
	if c.fault != nil {
		if err := c.fault(n, call, false); err != nil {
			return err
		}
	}
	c.mu.Lock()
	err := effect()
	c.mu.Unlock()
	if c.fault != nil {
		if lost := c.fault(n, call, true); lost != nil {
			return lost
		}
	}
	return err
}

func (c *fakeCloud) pace(ctx context.Context, action string) error {
	wait := c.latency
	if c.rate > 0 {
		c.mu.Lock()
		slot := c.slot[action]
		if now := time.Now(); slot.Before(now) {
			slot = now
		}
		wait += time.Until(slot)
		c.slot[action] = slot.Add(time.Duration(float64(time.Second) / c.rate))
		c.mu.Unlock()
	}
	if wait == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *fakeCloud) DescribeZones(ctx context.Context) (list []aliyun.Zone, err error) {
	err = c.do(ctx, "DescribeZones", "", func() error {
		for _, z := range c.zones {
			shown := *z
			for _, r := range c.records {
				if r.ZoneID == z.ID {
					shown.Records++
				}
			}
			list = append(list, shown)
		}
		return nil
	})
	return list, err
}

// in lists the records of a zone by ID.
func (c *fakeCloud) in(zoneID string) (list []aliyun.ZoneRecord) {
	for _, id := range c.ids {
		if r := c.records[id]; r.ZoneID == zoneID {
			list = append(list, r)
		}
	}
	return list
}

// put adds a record or replaces it.
func (c *fakeCloud) put(r aliyun.ZoneRecord) {
	if at, found := slices.BinarySearch(c.ids, r.ID); !found {
		c.ids = slices.Insert(c.ids, at, r.ID)
	}
	c.records[r.ID] = r
}

func (c *fakeCloud) drop(id int64) {
	if at, found := slices.BinarySearch(c.ids, id); found {
		c.ids = slices.Delete(c.ids, at, at+1)
	}
	delete(c.records, id)
}

func (c *fakeCloud) DescribeRecords(ctx context.Context, zoneID string, page, size int) (list []aliyun.ZoneRecord, total int, err error) {
	err = c.do(ctx, "DescribeZoneRecords", fmt.Sprint(zoneID, " page ", page), func() error {
		if c.zones[zoneID] == nil {
			return aliyun.ErrZoneGone
		}
		all := c.in(zoneID)
		total = len(all)
		list = all[min(total, (page-1)*size):min(total, page*size)]
		return nil
	})
	return list, total, err
}

func (c *fakeCloud) FindRecords(ctx context.Context, zoneID, rr string) (list []aliyun.ZoneRecord, err error) {
	err = c.do(ctx, "DescribeZoneRecords", zoneID+" "+rr, func() error {
		if c.zones[zoneID] == nil {
			return aliyun.ErrZoneGone
		}
		for _, id := range c.ids {
			if r := c.records[id]; r.ZoneID == zoneID && strings.EqualFold(r.RR, rr) {
				list = append(list, r)
			}
		}
		return nil
	})
	return list, err
}

func (c *fakeCloud) Changes(ctx context.Context, zoneID string, since time.Time) (list []aliyun.ZoneChange, err error) {
	err = c.do(ctx, "DescribeChangeLogs", zoneID, func() error {
		for _, e := range c.log {
			if e.ZoneID == zoneID && !e.At.Before(since) {
				list = append(list, e)
			}
		}
		return nil
	})
	return list, err
}

// fits says which rule of the API a record breaks.
func (c *fakeCloud) fits(n aliyun.ZoneRecord) error {
	if c.zones[n.ZoneID] == nil {
		return aliyun.ErrZoneGone
	}
	if !slices.Contains([]int{5, 30, 60, 3600, 43200, 86400}, n.TTL) || strings.Contains(n.Value, "bad") {
		return fmt.Errorf("%s %s %d: %w", n.RR, n.Value, n.TTL, aliyun.ErrInvalidRecord)
	}
	for _, r := range c.records {
		same := r.ID != n.ID && r.ZoneID == n.ZoneID && r.RR == n.RR && r.Line == n.Line
		if same && (r.Type == n.Type && r.Value == n.Value || r.Type == "CNAME" || n.Type == "CNAME") {
			return fmt.Errorf("%s %s beside record %d: %w", n.RR, n.Value, r.ID, aliyun.ErrRecordConflict)
		}
	}
	return nil
}

// store writes a record and the log. A nil record deletes.
func (c *fakeCloud) store(id int64, n *aliyun.ZoneRecord, action string) {
	r := c.records[id]
	if n != nil {
		r = *n
		r.ID = id
		c.put(r)
	} else {
		c.drop(id)
	}
	now := time.Now()
	c.log = append(c.log, aliyun.ZoneChange{ZoneID: r.ZoneID, RecordID: id, RR: r.RR, Type: r.Type, Action: action, At: now})
	if z := c.zones[r.ZoneID]; z != nil {
		z.Updated = now
	}
}

func (c *fakeCloud) AddRecord(ctx context.Context, a aliyun.AddRecord) (id int64, err error) {
	err = c.do(ctx, "AddZoneRecord", a.RR+" "+a.Type+" "+a.Value, func() error {
		if old, ok := c.tokens[a.ClientToken]; ok && a.ClientToken != "" {
			id = old
			return nil
		}
		n := aliyun.ZoneRecord{
			ID: c.next + 1, ZoneID: a.ZoneID, RR: a.RR, Type: a.Type, Value: a.Value, TTL: a.TTL, Remark: a.Remark, Enabled: true, Line: "default",
		}
		if err := c.fits(n); err != nil {
			return err
		}
		c.next++
		id = c.next
		c.tokens[a.ClientToken] = id
		c.store(id, &n, "add")
		return nil
	})
	return id, err
}

func (c *fakeCloud) change(ctx context.Context, action string, id int64, what string, edit func(*aliyun.ZoneRecord)) error {
	return c.do(ctx, action, fmt.Sprint(id, " ", what), func() error {
		r, ok := c.records[id]
		if !ok {
			return aliyun.ErrNotFound
		}
		edit(&r)
		if err := c.fits(r); err != nil {
			return err
		}
		c.store(id, &r, action)
		return nil
	})
}

func (c *fakeCloud) UpdateRecord(ctx context.Context, u aliyun.UpdateRecord) error {
	return c.change(ctx, "UpdateZoneRecord", u.ID, u.Value, func(r *aliyun.ZoneRecord) { r.RR, r.Type, r.Value, r.TTL = u.RR, u.Type, u.Value, u.TTL })
}

func (c *fakeCloud) SetRemark(ctx context.Context, id int64, remark, _ string) error {
	return c.change(ctx, "UpdateRecordRemark", id, remark, func(r *aliyun.ZoneRecord) { r.Remark = remark })
}

func (c *fakeCloud) DeleteRecord(ctx context.Context, id int64, _ string) error {
	return c.do(ctx, "DeleteZoneRecord", fmt.Sprint(id), func() error {
		if _, ok := c.records[id]; ok {
			c.store(id, nil, "delete")
		}
		return nil
	})
}

// edit is somebody else's write: a record of ID 0 is added, one without a type deleted.
func (c *fakeCloud) edit(r aliyun.ZoneRecord) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.ID == 0:
		r.ID = c.next + 1
		if c.fits(r) != nil {
			return 0
		}
		c.next++
		c.store(r.ID, &r, "add")
	case r.Type == "":
		if _, ok := c.records[r.ID]; !ok {
			return 0
		}
		c.store(r.ID, nil, "delete")
	default:
		if c.fits(r) != nil {
			return 0
		}
		c.store(r.ID, &r, "edit")
	}
	return r.ID
}

// shown lists the records of a zone as "rr type value owner", sorted.
func (c *fakeCloud) shown(zoneID string) (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.in(zoneID) {
		mark, _ := ParseRemark(r.Remark)
		list = append(list, fmt.Sprintf("%s %s %s %s", r.RR, r.Type, r.Value, cmp.Or(string(mark.Owner), "-")))
	}
	slices.Sort(list)
	return list
}

// all returns the records of a zone.
func (c *fakeCloud) all(zoneID string) []aliyun.ZoneRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in(zoneID)
}

// acted counts the calls by action, since lists them from a number on.
func (c *fakeCloud) acted() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.actions)
}

func (c *fakeCloud) since(n int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls[n:])
}

func (c *fakeCloud) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

func (c *fakeCloud) writes() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, action := range []string{"AddZoneRecord", "UpdateZoneRecord", "UpdateRecordRemark", "DeleteZoneRecord"} {
		n += c.actions[action]
	}
	return n
}

// seed puts n records "name-i" in a zone, of the owner, or foreign ones.
func (c *fakeCloud) seed(zoneID string, owner Owner, name string, n int) {
	for i := range n {
		r := aliyun.ZoneRecord{ZoneID: zoneID, RR: fmt.Sprintf("%s-%d", name, i), Type: "A", Value: address(i), TTL: 60, Enabled: true, Line: "default"}
		if owner != "" {
			r.Remark = owner.Remark(service(fmt.Sprintf("%s-%d", name, i)))
		}
		c.next++
		r.ID = c.next
		c.put(r)
	}
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.%d", i/65536%256, i/256%256, i%256) }

func service(name string) Object { return Object{Kind: "Service", Namespace: "default", Name: name} }
