package externaldns

import (
	"context"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Reader is the part of the PrivateZone API that changes nothing. Its errors are matched against the sentinels of
// internal/aliyun. Calls must be safe for concurrent use and end with their context.
type Reader interface {
	DescribeZones(ctx context.Context) ([]aliyun.Zone, error)
	DescribeRecords(ctx context.Context, zoneID string, page, pageSize int) (records []aliyun.ZoneRecord, total int, err error)
	FindRecords(ctx context.Context, zoneID, rr string) ([]aliyun.ZoneRecord, error)
	Changes(ctx context.Context, zoneID string, since time.Time) ([]aliyun.ZoneChange, error)
}

// A Writer is the part that changes zones. The same rules hold.
type Writer interface {
	AddRecord(ctx context.Context, r aliyun.AddRecord) (int64, error)
	UpdateRecord(ctx context.Context, r aliyun.UpdateRecord) error
	SetRemark(ctx context.Context, id int64, remark, clientToken string) error
	DeleteRecord(ctx context.Context, id int64, clientToken string) error
}

// A Cloud is both; *aliyun.PrivateZone is one.
type Cloud interface {
	Reader
	Writer
}
