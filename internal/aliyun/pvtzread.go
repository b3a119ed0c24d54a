package aliyun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// zonePage is the most items the PrivateZone API puts on a page.
const zonePage = 100

// listTries is how often a list is read that changes meanwhile.
const listTries = 4

// Service states of DescribeServiceStatus, with the spelling of the API.
const (
	ServiceOpened = "OPENED"
	ServiceClosed = "CLOSED"
)

// DescribeServiceStatus returns whether the account may use PrivateZone: ServiceOpened, ServiceClosed or what else the
// cloud says.
func (z *PrivateZone) DescribeServiceStatus(ctx context.Context) (string, error) {
	var w struct{ Status string }
	if err := z.read(ctx, "DescribeUserServiceStatus", params{}, &w); err != nil {
		return "", fmt.Errorf("describe the state of PrivateZone: %w", err)
	}
	return w.Status, nil
}

// DescribeZones returns all zones of the account, by ID. A list that changes while it is read is read again; if it never
// holds still, the error matches ErrUnavailable.
func (z *PrivateZone) DescribeZones(ctx context.Context) ([]Zone, error) {
	zones, err := stable(func() (*collection[Zone, string], error) {
		all := newCollection(func(z Zone) string { return z.ID })
		return all, all.read(func(number int) ([]Zone, int, error) {
			var page wireZonePage
			if err := z.read(ctx, "DescribeZones", pageParams(params{}, number, zonePage), &page); err != nil {
				return nil, 0, err
			}
			zones, err := page.zones()
			return zones, page.total(), err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("describe zones: %w", err)
	}
	slices.SortFunc(zones, func(a, b Zone) int { return cmp.Compare(a.ID, b.ID) })
	return zones, nil
}

// DescribeZone returns the zone; the error matches ErrZoneGone if there is none.
func (z *PrivateZone) DescribeZone(ctx context.Context, id string) (Zone, error) {
	var w wireZone
	if err := z.read(ctx, "DescribeZoneInfo", params{"ZoneId": id}, &w); err != nil {
		return Zone{}, fmt.Errorf("describe zone %s: %w", id, err)
	}
	zone, err := w.zone()
	if err == nil && zone.ID != id {
		err = fmt.Errorf("answer is about zone %q", zone.ID)
	}
	if err != nil {
		return Zone{}, fmt.Errorf("describe zone %s: %w", id, err)
	}
	return zone, nil
}

// DescribeRecords returns one page of the zone's records, pages counting from 1 and holding at most 100, and how many
// records the zone has now. Pages are numbered, so rows move between them while somebody edits the zone: a list is whole
// only if total was the same on all pages, no ID came twice, and as many came as there are.
func (z *PrivateZone) DescribeRecords(ctx context.Context, zoneID string, page, pageSize int) (records []ZoneRecord, total int, err error) {
	if page < 1 || pageSize < 1 || pageSize > zonePage {
		return nil, 0, fmt.Errorf("describe records of %s: page %d of %d rows: pages begin at 1 and have 1 to %d rows", zoneID, page, pageSize, zonePage)
	}
	records, total, err = z.recordPage(ctx, params{"ZoneId": zoneID}, page, pageSize)
	if err != nil {
		return nil, 0, fmt.Errorf("describe records of %s: %w", zoneID, err)
	}
	return records, total, nil
}

// FindRecords returns the records of every type at the name, enabled or not, oldest first. RR is relative to the zone.
func (z *PrivateZone) FindRecords(ctx context.Context, zoneID, rr string) ([]ZoneRecord, error) {
	found, err := stable(func() (*collection[ZoneRecord, int64], error) {
		all := newCollection(func(r ZoneRecord) int64 { return r.ID })
		return all, all.read(func(number int) ([]ZoneRecord, int, error) {
			return z.recordPage(ctx, params{"ZoneId": zoneID, "Keyword": rr, "SearchMode": "EXACT"}, number, zonePage)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("find records %s in %s: %w", rr, zoneID, err)
	}
	found = slices.DeleteFunc(found, func(r ZoneRecord) bool { return !strings.EqualFold(r.RR, rr) })
	slices.SortFunc(found, func(a, b ZoneRecord) int { return cmp.Compare(a.ID, b.ID) })
	return found, nil
}

// DescribeRecord returns the record; the error matches ErrNotFound if there is none.
func (z *PrivateZone) DescribeRecord(ctx context.Context, id int64) (ZoneRecord, error) {
	var w wireZoneRecord
	err := z.read(ctx, "DescribeZoneRecord", params{"RecordId": strconv.FormatInt(id, 10)}, &w)
	if hasCode(err, codeRecordNotExists) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return ZoneRecord{}, fmt.Errorf("describe record %d: %w", id, err)
	}
	r, err := w.record("")
	if err == nil && r.ID != id {
		err = fmt.Errorf("answer is about record %d", r.ID)
	}
	if err != nil {
		return ZoneRecord{}, fmt.Errorf("describe record %d: %w", id, err)
	}
	return r, nil
}

func (z *PrivateZone) recordPage(ctx context.Context, p params, number, size int) ([]ZoneRecord, int, error) {
	var page wireRecordPage
	if err := z.read(ctx, "DescribeZoneRecords", pageParams(p, number, size), &page); err != nil {
		return nil, 0, err
	}
	// A cloud that cuts pages short would have whoever counts pages skip rows.
	if got, err := page.PageSize.int(); err == nil && got != size {
		return nil, 0, fmt.Errorf("asked for pages of %d rows and got pages of %d", size, got)
	}
	if len(page.Records.Record) > size {
		return nil, 0, fmt.Errorf("asked for %d rows and got %d", size, len(page.Records.Record))
	}
	records, err := page.records(p["ZoneId"])
	return records, page.total(), err
}

// Changes returns what the log says about changes to records of the zone since then (the zero time: in the last six
// months), oldest first. The log may lag, and miss what was changed a moment ago.
func (z *PrivateZone) Changes(ctx context.Context, zoneID string, since time.Time) ([]ZoneChange, error) {
	p := params{"ZoneId": zoneID, "EntityType": "PV_RECORD"}
	if !since.IsZero() {
		p["StartTimestamp"] = strconv.FormatInt(since.UnixMilli(), 10)
	}
	// New entries only push others to later pages, where they come twice: there is nothing to read again.
	all := newCollection(func(e logEntry) int64 { return e.id })
	err := all.read(func(number int) ([]logEntry, int, error) {
		var page wireLogPage
		if err := z.read(ctx, "DescribeChangeLogs", pageParams(p, number, zonePage), &page); err != nil {
			return nil, 0, err
		}
		entries, err := page.entries(zoneID)
		return entries, page.total(), err
	})
	if err != nil {
		return nil, fmt.Errorf("read the change log of %s: %w", zoneID, err)
	}
	slices.SortFunc(all.items, func(a, b logEntry) int {
		return cmp.Or(a.change.At.Compare(b.change.At), cmp.Compare(a.id, b.id))
	})
	changes := make([]ZoneChange, 0, len(all.items))
	for _, e := range all.items {
		changes = append(changes, e.change)
	}
	return changes, nil
}

// pageParams are those of the action with those of a page.
func pageParams(p params, number, size int) params {
	p.count("PageNumber", number)
	p.count("PageSize", size)
	return p
}

// A collection is a list in numbered pages, as far as it is read.
type collection[T any, K comparable] struct {
	key    func(T) K
	items  []T
	seen   map[K]bool
	total  int
	shaken bool // the list changed between pages
}

func newCollection[T any, K comparable](key func(T) K) *collection[T, K] {
	return &collection[T, K]{key: key, seen: map[K]bool{}, total: -1}
}

// read collects page after page until there are no more.
func (c *collection[T, K]) read(page func(number int) (items []T, total int, err error)) error {
	rows := 0
	for number := 1; number <= maxPages; number++ {
		items, total, err := page(number)
		if err != nil {
			return err
		}
		c.shaken = c.shaken || c.total >= 0 && c.total != total
		c.total = total
		for _, item := range items {
			if k := c.key(item); !c.seen[k] {
				c.seen[k] = true
				c.items = append(c.items, item)
			}
		}
		if rows += len(items); len(items) == 0 || rows >= total {
			c.shaken = c.shaken || len(c.items) != total
			return nil
		}
	}
	return fmt.Errorf("more than %d pages", maxPages)
}

// stable reads a list until it held still.
func stable[T any, K comparable](read func() (*collection[T, K], error)) ([]T, error) {
	for range listTries {
		c, err := read()
		if err != nil {
			return nil, err
		}
		if !c.shaken {
			return c.items, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("list changed while it was read, %d times", listTries), ErrUnavailable)
}
