package aliyun

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Integers come as numbers, as text and as null, and beyond what a float64 counts.
func TestReadRecords(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want ZoneRecord
	}{
		"numbers": {
			`{"RecordId":9007199254740993,"ZoneId":"z","Rr":"www","Type":"a","Value":"10.0.0.1","Ttl":60,"Priority":null,"Weight":1,"Line":"default","Status":"ENABLE","Remark":"x"}`,
			ZoneRecord{ID: 1<<53 + 1, ZoneID: "z", RR: "www", Type: "A", Value: "10.0.0.1", TTL: 60, Enabled: true, Weight: 1, Line: "default", Remark: "x"},
		},
		"text": {
			`{"RecordId":"9007199254740993","Rr":"@","Type":"MX","Value":"mail.x","Ttl":"5","Priority":"10","Weight":"","Status":"disable"}`,
			ZoneRecord{ID: 1<<53 + 1, ZoneID: "z", RR: "@", Type: "MX", Value: "mail.x", TTL: 5, Priority: 10},
		},
	} {
		var w wireZoneRecord
		if err := json.Unmarshal([]byte(tc.body), &w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := w.record("z"); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tc.want)
		}
	}
}

func TestReadZone(t *testing.T) {
	t.Parallel()
	var w wireZone
	body := `{"ZoneId":"z","ZoneName":"10.IN-ADDR.arpa.","IsPtr":"true","RecordCount":"7","UpdateTimestamp":"1516775741000","BindVpcs":{"Vpc":[{"VpcId":"vpc-1"}]},"Vpcs":null}`
	if err := json.Unmarshal([]byte(body), &w); err != nil {
		t.Fatal(err)
	}
	got, err := w.zone()
	want := Zone{ID: "z", Name: "10.in-addr.arpa", Reverse: true, Records: 7, Updated: time.UnixMilli(1516775741000), VPCs: []string{"vpc-1"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, zone differs:\n%s", err, diff)
	}
}

func TestReadChange(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want ZoneChange
	}{
		"record": {
			`{"Id":1,"EntityId":"9007199254740993","EntityName":"www","OperAction":"add","OperTimestamp":1516779348000,"Content":"add A www 10.0.0.1"}`,
			ZoneChange{ZoneID: "z", RecordID: 1<<53 + 1, RR: "www", Type: "A", Action: "add", At: time.UnixMilli(1516779348000)},
		},
		"zone only":  {`{"Id":1,"EntityId":"z","EntityName":"example.internal","OperAction":"add"}`, ZoneChange{ZoneID: "z", Action: "add"}},
		"other ID":   {`{"Id":1,"EntityId":"CAg_58","EntityName":"www.x"}`, ZoneChange{ZoneID: "z", RR: "www.x"}},
		"two types":  {`{"Id":1,"EntityId":5,"Content":"A -> AAAA"}`, ZoneChange{ZoneID: "z", RecordID: 5}},
		"not a type": {`{"Id":1,"EntityId":5,"Content":"a record B-A-C of SRVs"}`, ZoneChange{ZoneID: "z", RecordID: 5}},
	} {
		var w wireLogEntry
		if err := json.Unmarshal([]byte(tc.body), &w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, w.change("z")); diff != "" {
			t.Errorf("%s: change differs:\n%s", name, diff)
		}
	}
}

func FuzzDecodePrivateZone(f *testing.F) {
	f.Add([]byte(`{"TotalItems":"1","PageSize":100,"Zones":{"Zone":[{"ZoneId":"z","ZoneName":"Example.","IsPtr":true,"RecordCount":1,"UpdateTimestamp":1,"Vpcs":{"Vpc":[{"VpcId":"v"}]}}]}}`))
	f.Add([]byte(`{"TotalItems":1,"Records":{"Record":[{"RecordId":"9007199254740993","Rr":"@","Type":"a","Value":"1.2.3.4","Ttl":60,"Status":"ENABLE"}]}}`))
	f.Add([]byte(`{"TotalItems":1e3,"ChangeLogs":{"ChangeLog":[{"Id":1,"EntityId":"5","EntityName":"www","OperAction":"add","OperTimestamp":null,"Content":"A"}]}}`))
	f.Add([]byte(`{"RecordId":-1,"ZoneId":"z","ZoneName":"x","TotalItems":-1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var zones wireZonePage
		if json.Unmarshal(body, &zones) == nil {
			all, err := zones.zones()
			for _, z := range all {
				if z.ID == "" || z.Name == "" || z.Records < 0 {
					t.Errorf("accepted %+v, %v", z, err)
				}
			}
		}
		var records wireRecordPage
		if json.Unmarshal(body, &records) == nil {
			all, err := records.records("z")
			for _, r := range all {
				if r.ID <= 0 || r.ZoneID != "z" || r.RR == "" || r.Type == "" || r.TTL < 0 {
					t.Errorf("accepted %+v, %v", r, err)
				}
			}
			if err == nil && records.total() < 0 {
				t.Errorf("accepted a page without a total: %s", body)
			}
		}
		var id wireRecordID
		if json.Unmarshal(body, &id) == nil {
			if n, err := id.id(); err == nil && n <= 0 {
				t.Errorf("accepted the ID %d", n)
			}
		}
		var log wireLogPage
		if json.Unmarshal(body, &log) == nil {
			all, _ := log.entries("z")
			for _, e := range all {
				if e.change.ZoneID != "z" || e.change.RecordID < 0 {
					t.Errorf("accepted %+v", e)
				}
			}
		}
	})
}
