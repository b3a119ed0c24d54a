package aliyun

import (
	"context"
	"fmt"
	"strconv"
)

// AddRecord is the request of PrivateZone.AddRecord.
type AddRecord struct {
	ZoneID, RR, Type, Value string
	TTL                     int // seconds, one the cloud takes: 5, 30, 60, 3600, 43200, 86400; zero: the cloud's default
	Priority                int // of an MX record
	Remark                  string
	// ClientToken makes the call repeatable: with the same token and request there is one record. A token is for one wish:
	// after its record is gone the cloud still answers with the old ID, and adds nothing.
	ClientToken string
}

// UpdateRecord is the request of PrivateZone.UpdateRecord. It replaces all that it has; the remark and whether the record
// is enabled stay.
type UpdateRecord struct {
	ID              int64
	RR, Type, Value string
	TTL             int // seconds; zero: the cloud's default
	Priority        int // of an MX record
	ClientToken     string
}

// AddRecord adds a record and returns its ID. The error matches ErrRecordConflict if the value is there already or the name
// cannot have it beside what it has.
func (z *PrivateZone) AddRecord(ctx context.Context, r AddRecord) (int64, error) {
	p := recordParams(r.RR, r.Type, r.Value, r.TTL, r.Priority)
	p.set("ZoneId", r.ZoneID)
	p.set("Remark", r.Remark)
	var w wireRecordID
	if err := z.change(ctx, "AddZoneRecord", p, r.ClientToken, &w); err != nil {
		return 0, fmt.Errorf("add record %s %s %q to %s: %w", r.RR, r.Type, r.Value, r.ZoneID, err)
	}
	id, err := w.id()
	if err != nil {
		return 0, fmt.Errorf("add record %s %s %q to %s: %w", r.RR, r.Type, r.Value, r.ZoneID, err)
	}
	return id, nil
}

// UpdateRecord changes a record. The error matches ErrNotFound if there is none.
func (z *PrivateZone) UpdateRecord(ctx context.Context, r UpdateRecord) error {
	p := recordParams(r.RR, r.Type, r.Value, r.TTL, r.Priority)
	return z.changeRecord(ctx, "UpdateZoneRecord", r.ID, p, r.ClientToken)
}

// SetRemark replaces the remark of a record; empty: none. The error matches ErrNotFound if there is no such record.
func (z *PrivateZone) SetRemark(ctx context.Context, id int64, remark, clientToken string) error {
	p := params{}
	p.set("Remark", remark)
	return z.changeRecord(ctx, "UpdateRecordRemark", id, p, clientToken)
}

// SetRecordEnabled lets the record be resolved or not. The error matches ErrNotFound if there is none.
func (z *PrivateZone) SetRecordEnabled(ctx context.Context, id int64, enabled bool, clientToken string) error {
	status := recordDisabled
	if enabled {
		status = recordEnabled
	}
	return z.changeRecord(ctx, "SetZoneRecordStatus", id, params{"Status": status}, clientToken)
}

// DeleteRecord deletes a record, for good. That there is none is success.
func (z *PrivateZone) DeleteRecord(ctx context.Context, id int64, clientToken string) error {
	err := z.changeRecord(ctx, "DeleteZoneRecord", id, params{}, clientToken)
	if hasCode(err, codeRecordNotExists) {
		return nil
	}
	return err
}

// changeRecord sends a change of one record, and insists that the answer is about it: a record with another ID would be one
// that nobody keeps track of.
func (z *PrivateZone) changeRecord(ctx context.Context, action string, id int64, p params, token string) error {
	p["RecordId"] = strconv.FormatInt(id, 10)
	var w wireRecordID
	err := z.change(ctx, action, p, token, &w)
	if hasCode(err, codeRecordNotExists) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("change record %d: %w", id, err)
	}
	if got, err := w.id(); err != nil || got != id {
		return fmt.Errorf("change record %d: answer of %s is about record %q: %w", id, action, w.RecordID, ErrUnavailable)
	}
	return nil
}

func recordParams(rr, rrtype, value string, ttl, priority int) params {
	p := params{}
	p.set("Rr", rr)
	p.set("Type", rrtype)
	p.set("Value", value)
	p.count("Ttl", ttl)
	p.count("Priority", priority)
	return p
}
