package aliyun

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The answers of PrivateZone. Integers come as numbers or as text, sometimes as null.

// Status of records, with the spelling of the API.
const (
	recordEnabled  = "ENABLE"
	recordDisabled = "DISABLE"
)

// A looseInt takes a number, text or null.
type looseInt struct{ text looseString }

// UnmarshalJSON never fails on well-formed JSON.
func (n *looseInt) UnmarshalJSON(b []byte) error { return n.text.UnmarshalJSON(b) }

func (n looseInt) int64() (int64, error) {
	i, err := strconv.ParseInt(string(n.text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %q is none", string(n.text))
	}
	return i, nil
}

func (n looseInt) int() (int, error) {
	i, err := n.int64()
	if err == nil && (i < 0 || i > 1<<31-1) {
		err = fmt.Errorf("number %d is out of range", i)
	}
	return int(i), err
}

// orZero is for what only informs.
func (n looseInt) orZero() int {
	i, err := n.int()
	if err != nil {
		return 0
	}
	return i
}

// wirePaging is what every page has.
type wirePaging struct {
	TotalItems looseInt
	PageSize   looseInt
}

// total is -1 if the answer does not say, which no count of rows equals.
func (w *wirePaging) total() int {
	n, err := w.TotalItems.int()
	if err != nil {
		return -1
	}
	return n
}

type wireZonePage struct {
	wirePaging
	Zones struct{ Zone []wireZone }
}

func (w *wireZonePage) zones() ([]Zone, error) {
	if w.total() < 0 {
		return nil, errors.New("answer lacks TotalItems")
	}
	zones := make([]Zone, 0, len(w.Zones.Zone))
	for _, z := range w.Zones.Zone {
		zone, err := z.zone()
		if err != nil {
			return nil, err
		}
		zones = append(zones, zone)
	}
	return zones, nil
}

type wireVPCList struct {
	VPC []struct {
		ID string `json:"VpcId"`
	} `json:"Vpc"`
}

type wireZone struct {
	ID       string `json:"ZoneId"`
	Name     string `json:"ZoneName"`
	IsPTR    looseString
	Records  looseInt `json:"RecordCount"`
	Updated  looseInt `json:"UpdateTimestamp"`
	VPCs     wireVPCList
	BindVPCs wireVPCList
}

func (w *wireZone) zone() (Zone, error) {
	z := Zone{ID: w.ID, Name: strings.ToLower(strings.TrimSuffix(w.Name, ".")), Reverse: strings.EqualFold(string(w.IsPTR), "true")}
	if z.ID == "" || z.Name == "" {
		return Zone{}, fmt.Errorf("answer has a zone with the ID %q and the name %q", w.ID, w.Name)
	}
	z.Records = w.Records.orZero()
	z.Updated = milliseconds(w.Updated)
	for _, list := range []wireVPCList{w.VPCs, w.BindVPCs} {
		for _, v := range list.VPC {
			z.VPCs = append(z.VPCs, v.ID)
		}
	}
	return z, nil
}

// milliseconds reads a time stamp; what is none is the zero time.
func milliseconds(n looseInt) time.Time {
	ms, err := n.int64()
	if err != nil || ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

type wireRecordPage struct {
	wirePaging
	Records struct{ Record []wireZoneRecord }
}

func (w *wireRecordPage) records(zoneID string) ([]ZoneRecord, error) {
	if w.total() < 0 {
		return nil, errors.New("answer lacks TotalItems")
	}
	records := make([]ZoneRecord, 0, len(w.Records.Record))
	for _, r := range w.Records.Record {
		record, err := r.record(zoneID)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

type wireZoneRecord struct {
	ID       looseInt `json:"RecordId"`
	ZoneID   string   `json:"ZoneId"`
	RR       string   `json:"Rr"`
	Type     string
	Value    string
	TTL      looseInt `json:"Ttl"`
	Priority looseInt
	Weight   looseInt
	Line     string
	Status   string
	Remark   string
}

// record checks what changes are decided by. ZoneID is the zone that was asked for; empty: any.
func (w *wireZoneRecord) record(zoneID string) (ZoneRecord, error) {
	id, err := w.ID.int64()
	if err != nil || id <= 0 {
		return ZoneRecord{}, fmt.Errorf("answer has a record with the ID %q", string(w.ID.text))
	}
	r := ZoneRecord{
		ID: id, ZoneID: w.ZoneID, RR: w.RR, Type: strings.ToUpper(w.Type), Value: w.Value, Priority: w.Priority.orZero(),
		Remark: w.Remark, Enabled: !strings.EqualFold(w.Status, recordDisabled), Line: w.Line, Weight: w.Weight.orZero(),
	}
	if r.ZoneID == "" {
		r.ZoneID = zoneID
	}
	if r.RR == "" || r.Type == "" || zoneID != "" && r.ZoneID != zoneID {
		return ZoneRecord{}, fmt.Errorf("answer has record %d with the host %q and the type %q in zone %q", id, w.RR, w.Type, w.ZoneID)
	}
	if r.TTL, err = w.TTL.int(); err != nil {
		return ZoneRecord{}, fmt.Errorf("read the TTL of record %d: %w", id, err)
	}
	return r, nil
}

type wireRecordID struct {
	RecordID looseString `json:"RecordId"`
}

func (w *wireRecordID) id() (int64, error) {
	id, err := strconv.ParseInt(string(w.RecordID), 10, 64)
	if err != nil || id <= 0 {
		return 0, fmt.Errorf("answer has the record ID %q: %w", string(w.RecordID), ErrUnavailable)
	}
	return id, nil
}

type wireLogPage struct {
	wirePaging
	ChangeLogs struct{ ChangeLog []wireLogEntry }
}

type wireLogEntry struct {
	ID         looseInt `json:"Id"`
	EntityID   looseString
	EntityName string
	Action     string   `json:"OperAction"`
	Object     string   `json:"OperObject"`
	At         looseInt `json:"OperTimestamp"`
	Content    string
}

// A logEntry is a change with its number in the log.
type logEntry struct {
	id     int64
	change ZoneChange
}

func (w *wireLogPage) entries(zoneID string) ([]logEntry, error) {
	if w.total() < 0 {
		return nil, errors.New("answer lacks TotalItems")
	}
	entries := make([]logEntry, 0, len(w.ChangeLogs.ChangeLog))
	for _, l := range w.ChangeLogs.ChangeLog {
		id, err := l.ID.int64()
		if err != nil {
			return nil, fmt.Errorf("read Id: %w", err)
		}
		entries = append(entries, logEntry{id, l.change(zoneID)})
	}
	return entries, nil
}

// change takes from an entry what it can. What an entry names is not documented: the record by its ID, or only its zone.
func (w *wireLogEntry) change(zoneID string) ZoneChange {
	c := ZoneChange{ZoneID: zoneID, Action: w.Action, At: milliseconds(w.At), Type: typeIn(w.Content)}
	if string(w.EntityID) == zoneID {
		return c // the name is the zone's
	}
	c.RR = w.EntityName
	if id, err := strconv.ParseInt(string(w.EntityID), 10, 64); err == nil && id > 0 {
		c.RecordID = id
	}
	return c
}

// typeIn finds the one word in a text that is a type of records.
func typeIn(text string) string {
	found := ""
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		switch word {
		case "A", "AAAA", "CNAME", "MX", "PTR", "SRV", "TXT":
			if found != "" && found != word {
				return ""
			}
			found = word
		}
	}
	return found
}
