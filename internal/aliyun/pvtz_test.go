package aliyun_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

const (
	forwardZone = "0123456789abcdef0123456789abcdef"
	reverseZone = "fedcba9876543210fedcba9876543210"
)

// zonesOf starts a simulated cloud with a forward and a reverse zone, both bound, and a client that loses no time.
func zonesOf(t *testing.T, change func(*sim.Config)) (*sim.Cloud, *aliyun.PrivateZone) {
	t.Helper()
	cloud, url := cloudOf(t, func(c *sim.Config) {
		c.PrivateZone.Zones = []sim.NewZone{
			{ID: forwardZone, Name: "Example.Internal.", VPCs: []string{sim.DefaultVPC}},
			{ID: reverseZone, Name: "10.in-addr.arpa", VPCs: []string{sim.DefaultVPC}},
		}
		if change != nil {
			change(c)
		}
	})
	return cloud, zoneClient(t, aliyun.Config{Endpoint: url})
}

func zoneClient(t *testing.T, cfg aliyun.Config) *aliyun.PrivateZone {
	t.Helper()
	cfg.RegionID = sim.DefaultRegion
	cfg.Credentials = aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret}
	cfg.Backoff = aliyun.Backoff{Tries: 6, Throttle: time.Millisecond, Fault: time.Millisecond, Limit: 4 * time.Millisecond}
	if cfg.RateLimits == nil {
		cfg.RateLimits = map[string]int{}
		for _, action := range sim.PrivateZoneActions() {
			cfg.RateLimits[action] = 1e6
		}
	}
	client, err := aliyun.NewPrivateZone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func www(value, token string) aliyun.AddRecord {
	return aliyun.AddRecord{ZoneID: forwardZone, RR: "www", Type: "A", Value: value, TTL: 60, Remark: "np1.a.b-c_d", ClientToken: token}
}

// A life of a record, with every action there is.
func TestRecordLife(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	ctx := t.Context()
	id, err := client.AddRecord(ctx, www("10.0.0.1", "t1"))
	if err != nil || id <= 1<<53 {
		t.Fatalf("AddRecord = %d, %v; want an ID that a float64 does not hold", id, err)
	}
	want := aliyun.ZoneRecord{
		ID: id, ZoneID: forwardZone, RR: "www", Type: "A", Value: "10.0.0.1", TTL: 60, Remark: "np1.a.b-c_d", Enabled: true,
		Line: "default", Weight: 1,
	}
	check := func(step string) {
		t.Helper()
		found, err := client.FindRecords(ctx, forwardZone, "WWW")
		if diff := cmp.Diff([]aliyun.ZoneRecord{want}, found); diff != "" || err != nil {
			t.Errorf("after %s: %v, records differ:\n%s", step, err, diff)
		}
		got, err := client.DescribeRecord(ctx, id)
		if got != want || err != nil {
			t.Errorf("after %s: DescribeRecord = %+v, %v", step, got, err)
		}
		records, total, err := client.DescribeRecords(ctx, forwardZone, 1, 100)
		if !slices.Equal(records, []aliyun.ZoneRecord{want}) || total != 1 || err != nil {
			t.Errorf("after %s: DescribeRecords = %+v, %d, %v", step, records, total, err)
		}
		if stored := cloud.PrivateZone().Records(forwardZone); !slices.Equal(stored, []aliyun.ZoneRecord{want}) {
			t.Errorf("after %s: the store has %+v", step, stored)
		}
	}
	check("AddRecord")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.UpdateRecord(ctx, aliyun.UpdateRecord{ID: id, RR: "www", Type: "A", Value: "10.0.0.2", TTL: 5, ClientToken: "t2"}))
	want.Value, want.TTL = "10.0.0.2", 5
	check("UpdateRecord")
	must(client.SetRemark(ctx, id, "np1.b", "t3"))
	want.Remark = "np1.b"
	check("SetRemark")
	must(client.SetRemark(ctx, id, "", "t4"))
	want.Remark = ""
	check("SetRemark to none")
	must(client.SetRecordEnabled(ctx, id, false, "t5"))
	want.Enabled = false
	check("SetRecordEnabled")
	must(client.DeleteRecord(ctx, id, "t6"))
	must(client.DeleteRecord(ctx, id, "t7"))
	if _, err := client.DescribeRecord(ctx, id); !errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("describe a record that is gone: %v", err)
	}
	if err := client.SetRemark(ctx, id, "x", ""); !errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("set the remark of a record that is gone: %v", err)
	}

	changes, err := client.Changes(ctx, forwardZone, time.Time{})
	must(err)
	var actions []string
	for _, c := range changes {
		actions = append(actions, c.Action)
		if c.RecordID != id || c.RR != "www" || c.Type != "A" || c.ZoneID != forwardZone || c.At.IsZero() {
			t.Errorf("change is %+v", c)
		}
	}
	if want := []string{"add", "update", "updateRemark", "updateRemark", "pause", "delete"}; !slices.Equal(actions, want) {
		t.Errorf("changes are %v, want %v", actions, want)
	}
}

func TestDescribeZones(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	const many = 250 // three pages
	for range many {
		if _, err := cloud.PrivateZone().AddZone(sim.NewZone{Name: "other.internal"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cloud.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: reverseZone, RR: "1.0.0", Type: "PTR", Value: "a.example.internal"}); err != nil {
		t.Fatal(err)
	}
	zones, err := client.DescribeZones(t.Context())
	if err != nil || len(zones) != many+2 {
		t.Fatalf("DescribeZones = %d zones, %v", len(zones), err)
	}
	store := cloud.PrivateZone().Zones()
	for i := range store {
		store[i].Updated, zones[i].Updated = store[i].Updated.Truncate(time.Millisecond).UTC(), zones[i].Updated.UTC()
	}
	if diff := cmp.Diff(store, zones); diff != "" {
		t.Errorf("zones differ:\n%s", diff)
	}
	got, err := client.DescribeZone(t.Context(), reverseZone)
	if err != nil || got.Name != "10.in-addr.arpa" || !got.Reverse || got.Records != 1 || !slices.Equal(got.VPCs, []string{sim.DefaultVPC}) {
		t.Errorf("DescribeZone = %+v, %v", got, err)
	}
	if calls := cloud.Calls()["DescribeZones"]; calls != 3 {
		t.Errorf("zones took %d calls, want 3", calls)
	}
	if status, err := client.DescribeServiceStatus(t.Context()); status != aliyun.ServiceOpened || err != nil {
		t.Errorf("DescribeServiceStatus = %q, %v", status, err)
	}
	// A binding that vanishes is seen; so is a zone.
	if err := cloud.PrivateZone().Bind(forwardZone); err != nil {
		t.Fatal(err)
	}
	if got, err := client.DescribeZone(t.Context(), forwardZone); err != nil || got.VPCs != nil {
		t.Errorf("an unbound zone is %+v, %v", got, err)
	}
}

// Each refusal the service has has its class, and no other.
func TestRecordErrors(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, func(c *sim.Config) { c.PrivateZone.MaxRecords = 3 })
	store := cloud.PrivateZone()
	for _, r := range []aliyun.ZoneRecord{
		{ZoneID: forwardZone, RR: "www", Type: "A", Value: "10.0.0.1"}, {ZoneID: forwardZone, RR: "alias", Type: "CNAME", Value: "www.example.internal"},
	} {
		if _, err := store.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	add := func(change func(*aliyun.AddRecord)) func() error {
		return func() error {
			r := www("10.0.0.9", "")
			change(&r)
			_, err := client.AddRecord(t.Context(), r)
			return err
		}
	}
	for name, tc := range map[string]struct {
		do    func() error
		class error
	}{
		"same value":     {add(func(r *aliyun.AddRecord) { r.Value = "10.0.0.1" }), aliyun.ErrRecordConflict},
		"beside a CNAME": {add(func(r *aliyun.AddRecord) { r.RR = "ALIAS" }), aliyun.ErrRecordConflict},
		"CNAME beside":   {add(func(r *aliyun.AddRecord) { r.Type, r.Value = "CNAME", "x.y" }), aliyun.ErrRecordConflict},
		"host":           {add(func(r *aliyun.AddRecord) { r.RR = "a b" }), aliyun.ErrInvalidRecord},
		"no host":        {add(func(r *aliyun.AddRecord) { r.RR = "" }), aliyun.ErrInvalidRecord},
		"type":           {add(func(r *aliyun.AddRecord) { r.Type = "NS" }), aliyun.ErrInvalidRecord},
		"value":          {add(func(r *aliyun.AddRecord) { r.Value = "::1" }), aliyun.ErrInvalidRecord},
		"TTL":            {add(func(r *aliyun.AddRecord) { r.TTL = 300 }), aliyun.ErrInvalidRecord},
		"comma":          {add(func(r *aliyun.AddRecord) { r.Type, r.Value = "TXT", "a,b" }), aliyun.ErrInvalidRecord},
		"remark":         {add(func(r *aliyun.AddRecord) { r.Remark = "a=b" }), aliyun.ErrInvalidRecord},
		"long remark":    {add(func(r *aliyun.AddRecord) { r.Remark = strings.Repeat("x", 51) }), aliyun.ErrInvalidRecord},
		"PTR":            {add(func(r *aliyun.AddRecord) { r.Type, r.Value = "PTR", "a.b" }), aliyun.ErrInvalidRecord},
		"zone":           {add(func(r *aliyun.AddRecord) { r.ZoneID = strings.Repeat("0", 32) }), aliyun.ErrZoneGone},
		"zone ID":        {add(func(r *aliyun.AddRecord) { r.ZoneID = "example.internal" }), aliyun.ErrZoneGone},
		"update": {func() error {
			return client.UpdateRecord(t.Context(), aliyun.UpdateRecord{ID: 7, RR: "www", Type: "A", Value: "10.0.0.3"})
		}, aliyun.ErrNotFound},
		"zone info": {func() error { _, err := client.DescribeZone(t.Context(), "x"); return err }, aliyun.ErrZoneGone},
		"records": {func() error {
			_, _, err := client.DescribeRecords(t.Context(), strings.Repeat("0", 32), 1, 10)
			return err
		}, aliyun.ErrZoneGone},
		"find": {func() error { _, err := client.FindRecords(t.Context(), "x", "www"); return err }, aliyun.ErrZoneGone},
	} {
		err := tc.do()
		for _, class := range []error{
			aliyun.ErrRecordConflict, aliyun.ErrInvalidRecord, aliyun.ErrZoneGone, aliyun.ErrNotFound, aliyun.ErrQuota, aliyun.ErrThrottled,
			aliyun.ErrForbidden, aliyun.ErrUnavailable, aliyun.ErrConflict,
		} {
			if errors.Is(err, class) != (class == tc.class) { //nolint:errorlint // the class itself
				t.Errorf("%s: error %v; is %v: %v", name, err, class, errors.Is(err, class))
			}
		}
	}
	if _, err := client.AddRecord(t.Context(), www("10.0.0.2", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AddRecord(t.Context(), www("10.0.0.3", "")); !errors.Is(err, aliyun.ErrQuota) {
		t.Errorf("a record too many: %v", err)
	}
	if err := store.RemoveZone(forwardZone); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AddRecord(t.Context(), www("10.0.0.3", "")); !errors.Is(err, aliyun.ErrZoneGone) {
		t.Errorf("a record of a zone that was deleted: %v", err)
	}
}

// An answer that is lost costs nothing under a token: the repetition has the first result. Without one the outcome stays
// unknown, and the call is not repeated.
func TestChangeWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	ctx := t.Context()
	id := int64(0)
	for _, tc := range []struct {
		action string
		do     func(token string) error
	}{
		{"AddZoneRecord", func(token string) (err error) { id, err = client.AddRecord(ctx, www("10.0.0.1", token)); return err }},
		{"UpdateZoneRecord", func(token string) error {
			return client.UpdateRecord(ctx, aliyun.UpdateRecord{ID: id, RR: "www", Type: "A", Value: "10.0.0.2", TTL: 60, ClientToken: token})
		}},
		{"UpdateRecordRemark", func(token string) error { return client.SetRemark(ctx, id, "mine", token) }},
		{"SetZoneRecordStatus", func(token string) error { return client.SetRecordEnabled(ctx, id, false, token) }},
		{"DeleteZoneRecord", func(token string) error { return client.DeleteRecord(ctx, id, token) }},
	} {
		cloud.Inject(sim.Fault{Action: tc.action, LoseAnswer: true})
		if err := tc.do("lost-" + tc.action); err != nil || cloud.Calls()[tc.action] != 2 {
			t.Errorf("%s under a token: %v after %d calls, want success after 2", tc.action, err, cloud.Calls()[tc.action])
		}
	}
	if records := cloud.PrivateZone().Records(forwardZone); len(records) != 0 {
		t.Errorf("records are left: %+v", records)
	}
	cloud.Inject(sim.Fault{Action: "AddZoneRecord", LoseAnswer: true})
	if _, err := client.AddRecord(ctx, www("10.0.0.3", "")); !errors.Is(err, aliyun.ErrUnavailable) || cloud.Calls()["AddZoneRecord"] != 3 {
		t.Errorf("without a token: %v after %d calls, want ErrUnavailable after one more", err, cloud.Calls()["AddZoneRecord"])
	}
	// The trap of a token that outlives its wish: the record is gone, and nothing is added.
	records := cloud.PrivateZone().Records(forwardZone)
	if len(records) != 1 {
		t.Fatalf("records are %+v, want the one whose answer was lost", records)
	}
	if again, err := client.AddRecord(ctx, www("10.0.0.1", "lost-AddZoneRecord")); again != id || err != nil || len(cloud.PrivateZone().Records(forwardZone)) != 1 {
		t.Errorf("an old token: %d, %v; want the old ID %d and no new record", again, err, id)
	}
	if _, err := client.AddRecord(ctx, www("10.0.0.8", "lost-AddZoneRecord")); !errors.Is(err, aliyun.ErrConflict) {
		t.Errorf("a token with another wish: %v, want ErrConflict", err)
	}
	if _, err := client.AddRecord(ctx, www("10.0.0.8", strings.Repeat("t", 65))); err == nil {
		t.Error("a token of 65 characters was accepted")
	}
}

func TestThrottledAndBusyCallsAreRepeated(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	cloud.Throttle("AddZoneRecord", 2)
	cloud.Inject(sim.Fault{Action: "AddZoneRecord", Code: "System.Busy"})
	if _, err := client.AddRecord(t.Context(), www("10.0.0.1", "t")); err != nil || cloud.Calls()["AddZoneRecord"] != 4 {
		t.Errorf("AddRecord = %v after %d calls, want success after 4", err, cloud.Calls()["AddZoneRecord"])
	}
	if rate := client.Rate("AddZoneRecord"); rate >= 1e6/60 {
		t.Errorf("the rate is %.0f per second after it was throttled", rate)
	}
	cloud.Inject(sim.Fault{Action: "DescribeZones", Code: "Forbidden.RAM", HTTPStatus: 403})
	if _, err := client.DescribeZones(t.Context()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("DescribeZones without permission: %v", err)
	}
}

// A zone that changes between pages is read again; one that never holds still is an error, not a part of the list.
func TestListsThatDoNotHoldStill(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	store := cloud.PrivateZone()
	for range 150 {
		if _, err := store.Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: "many", Type: "TXT", Value: "v" + time.Duration(len(store.Records(forwardZone))).String()}); err != nil {
			t.Fatal(err)
		}
	}
	edits := 1
	store.OnPage(func(p sim.RecordPage) {
		if p.Number == 1 && edits > 0 {
			edits--
			if err := store.Remove(store.Records(forwardZone)[0].ID); err != nil {
				t.Error(err)
			}
		}
	})
	found, err := client.FindRecords(t.Context(), forwardZone, "many")
	if err != nil || !slices.Equal(found, store.Records(forwardZone)) || len(found) != 149 {
		t.Errorf("FindRecords = %d records, %v; want all 149", len(found), err)
	}
	edits = 1000
	if found, err := client.FindRecords(t.Context(), forwardZone, "many"); !errors.Is(err, aliyun.ErrUnavailable) || found != nil {
		t.Errorf("FindRecords in a storm = %d records, %v; want ErrUnavailable", len(found), err)
	}
}

func TestDescribeRecordsChecksPages(t *testing.T) {
	t.Parallel()
	cloud, client := zonesOf(t, nil)
	for _, v := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if _, err := client.AddRecord(t.Context(), www(v, "")); err != nil {
			t.Fatal(err)
		}
	}
	records, total, err := client.DescribeRecords(t.Context(), forwardZone, 2, 2)
	if err != nil || total != 3 || len(records) != 1 || records[0].Value != "10.0.0.3" {
		t.Errorf("second page = %+v, %d, %v", records, total, err)
	}
	for _, size := range []int{0, 101} {
		if _, _, err := client.DescribeRecords(t.Context(), forwardZone, 1, size); err == nil {
			t.Errorf("pages of %d rows were accepted", size)
		}
	}
	if n := cloud.Calls()["DescribeZoneRecords"]; n != 1 {
		t.Errorf("%d calls, want only the one that could be answered", n)
	}
	for name, body := range map[string]string{
		"shorter pages": `{"TotalItems":3,"PageSize":20,"Records":{"Record":[]}}`,
		"no total":      `{"PageSize":100,"Records":{"Record":[]}}`,
		"other zone":    `{"TotalItems":1,"PageSize":"100","Records":{"Record":[{"RecordId":1,"ZoneId":"x","Rr":"a","Type":"A","Ttl":5}]}}`,
		"no ID":         `{"TotalItems":1,"Records":{"Record":[{"Rr":"a","Type":"A","Ttl":5}]}}`,
		"no TTL":        `{"TotalItems":1,"Records":{"Record":[{"RecordId":1,"Rr":"a","Type":"A"}]}}`,
		"empty":         `{}`,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		if records, _, err := zoneClient(t, aliyun.Config{Endpoint: server.URL}).DescribeRecords(t.Context(), forwardZone, 1, 100); err == nil {
			t.Errorf("%s: accepted as %+v", name, records)
		}
		server.Close()
	}
}

// Rows that never come are not taken for rows that are not there.
func TestListThatEndsEarly(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rows := ""
		if r.URL.Query().Get("PageNumber") == "1" {
			rows = `{"RecordId":1,"Rr":"a","Type":"A","Value":"10.0.0.1","Ttl":5}`
		}
		_, _ = w.Write([]byte(`{"TotalItems":2,"PageSize":100,"Records":{"Record":[` + rows + `]}}`))
	}))
	t.Cleanup(server.Close)
	found, err := zoneClient(t, aliyun.Config{Endpoint: server.URL}).FindRecords(t.Context(), forwardZone, "a")
	if !errors.Is(err, aliyun.ErrUnavailable) || found != nil {
		t.Errorf("FindRecords = %+v, %v; want ErrUnavailable", found, err)
	}
}

// A record that changed its ID under an update is not the one the caller knows.
func TestRenumberedRecord(t *testing.T) {
	t.Parallel()
	_, client := zonesOf(t, func(c *sim.Config) { c.PrivateZone.RenumberOnUpdate = true })
	id, err := client.AddRecord(t.Context(), www("10.0.0.1", ""))
	if err != nil {
		t.Fatal(err)
	}
	err = client.UpdateRecord(t.Context(), aliyun.UpdateRecord{ID: id, RR: "www", Type: "A", Value: "10.0.0.2", TTL: 60})
	if !errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("UpdateRecord = %v, want ErrUnavailable", err)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, bare := range []bool{false, true} {
		clock := sim.NewManualClock(now, false)
		cloud, client := zonesOf(t, func(c *sim.Config) {
			c.Clock, c.ClockSkew, c.PrivateZone.BareLog, c.PrivateZone.LogLag = clock, -1, bare, time.Minute
		})
		add := func(n int) {
			for i := range n {
				_, err := cloud.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: "a", Type: "TXT", Value: clock.Now().Add(time.Duration(i)).String()})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		add(250)
		if changes, err := client.Changes(t.Context(), forwardZone, time.Time{}); len(changes) != 0 || err != nil {
			t.Errorf("before the lag: %d changes, %v", len(changes), err)
		}
		clock.Advance(time.Minute)
		since := clock.Now()
		if changes, err := client.Changes(t.Context(), forwardZone, now.Add(-time.Hour)); len(changes) != 250 || err != nil {
			t.Errorf("after the lag: %d changes, %v", len(changes), err)
		}
		clock.Advance(time.Millisecond)
		add(1)
		clock.Advance(time.Minute)
		changes, err := client.Changes(t.Context(), forwardZone, since)
		if len(changes) != 1 || err != nil {
			t.Fatalf("since the last look: %+v, %v", changes, err)
		}
		if known := changes[0].RecordID != 0 && changes[0].RR == "a"; known == bare {
			t.Errorf("change is %+v in a log that names records: %v", changes[0], !bare)
		}
		if changes, err := client.Changes(t.Context(), reverseZone, time.Time{}); len(changes) != 0 || err != nil {
			t.Errorf("another zone: %+v, %v", changes, err)
		}
	}
}
