package externaldns

import (
	"context"
	"errors"
	"fmt"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// pageSize is the largest of DescribeZoneRecords.
const pageSize = 100

// errDrift: the pages of a listing are not of one state of the zone. Page numbers drift when somebody adds or deletes
// between two of them.
var errDrift = errors.New("zone changed while it was listed")

// A listing collects the pages of a zone and accepts them only as a whole: every page tells the same total, no record
// comes twice, and in the end there are as many as the total.
type listing struct {
	zoneID  string
	pages   int
	rows    int
	total   int
	drift   error // why it is not accepted
	ids     map[int64]struct{}
	records []aliyun.ZoneRecord
}

// add takes the next page. Done says that there is no further one.
func (l *listing) add(page []aliyun.ZoneRecord, total int) (done bool) {
	l.pages++
	if l.pages == 1 {
		l.total, l.ids = total, make(map[int64]struct{}, total)
	}
	if total != l.total {
		l.reject("page %d tells of %d records, the first of %d", l.pages, total, l.total)
	}
	l.rows += len(page)
	for _, r := range page {
		if _, twice := l.ids[r.ID]; twice {
			l.reject("record %d came twice", r.ID)
			continue
		}
		l.ids[r.ID] = struct{}{}
		r.ZoneID = l.zoneID
		l.records = append(l.records, r)
	}
	done = l.rows >= total || len(page) == 0
	if done && len(l.records) != l.total {
		l.reject("%d pages have %d records, not the %d they tell of", l.pages, len(l.records), l.total)
	}
	return done
}

func (l *listing) reject(format string, args ...any) {
	if l.drift == nil {
		l.drift = fmt.Errorf("%w: zone %s: %s", errDrift, l.zoneID, fmt.Sprintf(format, args...))
	}
}

// list reads a zone once. With errDrift the pages are not accepted, and it ends at the first that does not fit; with whole
// it goes on, and returns what it has seen.
func list(ctx context.Context, cloud Reader, zoneID string, whole bool) ([]aliyun.ZoneRecord, error) {
	l := listing{zoneID: zoneID}
	for {
		page, total, err := cloud.DescribeRecords(ctx, zoneID, l.pages+1, pageSize)
		if err != nil {
			return nil, fmt.Errorf("list zone %s: %w", zoneID, err)
		}
		if done := l.add(page, total); done || l.drift != nil && !whole {
			return l.records, l.drift
		}
	}
}
