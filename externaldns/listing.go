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
	total   int
	ids     map[int64]struct{}
	records []aliyun.ZoneRecord
}

// add takes the next page. Done says that no page is missing.
func (l *listing) add(page []aliyun.ZoneRecord, total int) (done bool, err error) {
	l.pages++
	if l.pages == 1 {
		l.total, l.ids = total, make(map[int64]struct{}, total)
	}
	if total != l.total {
		return false, fmt.Errorf("%w: page %d of %s tells of %d records, the first of %d", errDrift, l.pages, l.zoneID, total, l.total)
	}
	for _, r := range page {
		if _, twice := l.ids[r.ID]; twice {
			return false, fmt.Errorf("%w: record %d of %s came twice", errDrift, r.ID, l.zoneID)
		}
		l.ids[r.ID] = struct{}{}
		r.ZoneID = l.zoneID
		l.records = append(l.records, r)
	}
	switch {
	case len(l.records) == total:
		return true, nil
	case len(page) == 0 || len(l.records) > total:
		return false, fmt.Errorf("%w: %d pages of %s have %d records, not the %d they tell of", errDrift, l.pages, l.zoneID, len(l.records), total)
	}
	return false, nil
}

// list reads a zone once. The error is errDrift when the pages are not accepted.
func list(ctx context.Context, cloud Reader, zoneID string) ([]aliyun.ZoneRecord, error) {
	l := listing{zoneID: zoneID}
	for {
		page, total, err := cloud.DescribeRecords(ctx, zoneID, l.pages+1, pageSize)
		if err != nil {
			return nil, fmt.Errorf("list zone %s: %w", zoneID, err)
		}
		if done, err := l.add(page, total); done || err != nil {
			return l.records, err
		}
	}
}
