package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	forwardZone = "0123456789abcdef0123456789abcdef"
	reverseZone = "fedcba9876543210fedcba9876543210"
	otherVPC    = "vpc-other"
)

// newZones returns a cloud with a forward and a reverse zone.
func newZones(tb testing.TB, change func(*PrivateZoneConfig)) *Cloud {
	tb.Helper()
	return newCloud(tb, func(c *Config) {
		c.PrivateZone = PrivateZoneConfig{
			VPCs: []string{otherVPC},
			Zones: []NewZone{
				{ID: forwardZone, Name: "example.internal", VPCs: []string{DefaultVPC}},
				{ID: reverseZone, Name: "0.10.in-addr.arpa", VPCs: []string{DefaultVPC}},
			},
		}
		if change != nil {
			change(&c.PrivateZone)
		}
	})
}

// pvtz sends a signed action and returns the code of the refusal, empty for success, and the answer.
func (c *caller) pvtz(tb testing.TB, action string, extra map[string]string) (code string, answer map[string]any) {
	tb.Helper()
	in := c.params(pvtzVersion, action, extra)
	in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
	status, answer := c.post(tb, in)
	code, _ = answer["Code"].(string)
	if (status == 200) != (code == "") || code != "" && status != 400 {
		tb.Errorf("%s: status %d and code %q", action, status, code)
	}
	return code, answer
}

func TestRecordRules(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, tc := range []struct {
		rr, rrtype, value, code string
	}{
		{"@", "A", "10.0.0.1", ""}, {"*", "A", "10.0.0.1", ""}, {"*.a", "A", "10.0.0.1", ""}, {"a_b-c.D9", "A", "10.0.0.1", ""},
		{"a.*", "A", "10.0.0.1", codeRecordHost}, {"a*", "A", "10.0.0.1", codeRecordHost}, {"a..b", "A", "10.0.0.1", codeRecordHost},
		{"-a", "A", "10.0.0.1", codeRecordHost}, {long, "A", "10.0.0.1", codeRecordHost}, {"ä", "A", "10.0.0.1", codeRecordHost},
		{strings.Repeat("abcdefgh.", 27) + "x", "A", "10.0.0.1", codeRecordHost},
		{"a", "A", "10.0.0.256", codeRecordValue}, {"a", "A", "2001:db8::1", codeRecordValue}, {"a", "AAAA", "2001:db8::1", ""},
		{"a", "AAAA", "fe80::1%eth0", codeRecordValue}, {"a", "AAAA", "10.0.0.1", codeRecordValue},
		{"a", "CNAME", "b.example.internal.", ""}, {"a", "CNAME", "10.0.0.1", codeRecordValue}, {"a", "CNAME", "a b", codeRecordValue},
		{"a", "MX", "mail.example.internal", ""}, {"a", "MX", "", "MissingParameter.Value"},
		{"a", "TXT", strings.Repeat("x", 255), ""}, {"a", "TXT", strings.Repeat("x", 256), codeRecordValue},
		{"a", "TXT", "heritage=external-dns,owner=x", codeRecordValue}, {"a", "TXT", `quo"te \ 中`, ""},
		{"_http._tcp.a", "SRV", "0 50 30080 a.example.internal.", ""}, {"_http._tcp", "SRV", "0 50 30080 a", ""},
		{"http.tcp", "SRV", "0 50 30080 a", codeRecordHost}, {"@", "SRV", "0 50 30080 a", codeRecordHost},
		{"_http._tcp", "SRV", "0 50 70000 a", codeRecordValue}, {"_http._tcp", "SRV", "0 50 80", codeRecordValue},
		{"_http._tcp", "SRV", "0  50 80 a", codeRecordValue},
		{"a", "PTR", "a.example.internal", codeRecordHost}, {"a", "NS", "ns.example.internal", codeRecordType}, {"a", "a", "10.0.0.1", codeRecordType},
	} {
		name := tc.rr + " " + tc.rrtype + " " + tc.value
		c := caller{cloud: newZones(t, nil)}
		code, _ := c.pvtz(t, "AddZoneRecord", map[string]string{"ZoneId": forwardZone, "Rr": tc.rr, "Type": tc.rrtype, "Value": tc.value})
		if code != tc.code {
			t.Errorf("add %s: code %q, want %q", name, code, tc.code)
		}
		if n := len(c.cloud.PrivateZone().Records(forwardZone)); (n == 1) != (tc.code == "") {
			t.Errorf("add %s: %d records afterwards", name, n)
		}
	}
}

func TestReverseRules(t *testing.T) {
	t.Parallel()
	p := newZones(t, nil).PrivateZone()
	v6, err := p.AddZone(NewZone{Name: "8.b.d.0.1.0.0.2.ip6.arpa"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		zone, rr string
		ok       bool
	}{
		{reverseZone, "1.0", true}, {reverseZone, "255.255", true}, {reverseZone, "7", true}, {reverseZone, "256.0", false},
		{reverseZone, "01.0", false}, {reverseZone, "1.0.0", false}, {reverseZone, "a.0", false},
		{v6, "1" + strings.Repeat(".0", 23), true}, {v6, "F", true}, {v6, "g", false}, {v6, "10", false}, {v6, "1" + strings.Repeat(".0", 24), false},
	} {
		_, err := p.Add(aliyun.ZoneRecord{ZoneID: tc.zone, RR: tc.rr, Type: "PTR", Value: "a.example.internal"})
		if (err == nil) != tc.ok {
			t.Errorf("PTR %s: %v, want success %v", tc.rr, err, tc.ok)
		}
	}
}

// What the vendor leaves open is a switch, and both readings work.
func TestSwitches(t *testing.T) {
	t.Parallel()
	add := func(extra map[string]string) map[string]string {
		p := map[string]string{"ZoneId": forwardZone, "Rr": "a", "Type": "A", "Value": "10.0.0.1"}
		maps.Copy(p, extra)
		return p
	}
	for name, tc := range map[string]struct {
		change func(*PrivateZoneConfig)
		action string
		params map[string]string
		strict string // code without the switch
	}{
		"TTL":         {func(c *PrivateZoneConfig) { c.RoundTTL = true }, "AddZoneRecord", add(map[string]string{"Ttl": "300"}), codeRecordTTL},
		"comma":       {func(c *PrivateZoneConfig) { c.CommaInTXT = true }, "AddZoneRecord", add(map[string]string{"Type": "TXT", "Value": "a,b"}), codeRecordValue},
		"remark":      {func(c *PrivateZoneConfig) { c.AnyRemark = true }, "AddZoneRecord", add(map[string]string{"Remark": "owner=a/b"}), codeZoneRemark},
		"page size":   {func(c *PrivateZoneConfig) { c.ClampPageSize = true }, "DescribeZoneRecords", map[string]string{"ZoneId": forwardZone, "PageSize": "500"}, codeInvalidParameter},
		"line":        {func(c *PrivateZoneConfig) { c.Zones[0].Accelerated = true }, "AddZoneRecord", add(map[string]string{"Line": "cn-a"}), codeRecordLine},
		"weight":      {func(c *PrivateZoneConfig) { c.Zones[0].Accelerated = true }, "AddZoneRecord", add(map[string]string{"Weight": "100"}), codeRecordWeight},
		"record many": {func(c *PrivateZoneConfig) { c.MaxRecords = 1 }, "AddZoneRecord", add(nil), ""},
	} {
		if code, _ := (&caller{cloud: newZones(t, nil)}).pvtz(t, tc.action, tc.params); code != tc.strict {
			t.Errorf("%s, strict: code %q, want %q", name, code, tc.strict)
		}
		if code, _ := (&caller{cloud: newZones(t, tc.change)}).pvtz(t, tc.action, tc.params); code != "" {
			t.Errorf("%s, lenient: code %q", name, code)
		}
	}
	for ttl, want := range map[int]int{1: 5, 20: 30, 300: 60, 1900: 3600, 100000: 86400} {
		if got := nearestTTL(ttl); got != want {
			t.Errorf("nearest TTL of %d is %d, want %d", ttl, got, want)
		}
	}
	for _, bad := range []map[string]string{{"Ttl": "x"}, {"Ttl": "-5"}, {"Ttl": "0"}} {
		if code, _ := (&caller{cloud: newZones(t, nil)}).pvtz(t, "AddZoneRecord", add(bad)); code != codeRecordTTL {
			t.Errorf("TTL %v: code %q", bad, code)
		}
	}
	mx := add(map[string]string{"Type": "MX", "Value": "mail.x", "Priority": "100"})
	if code, _ := (&caller{cloud: newZones(t, nil)}).pvtz(t, "AddZoneRecord", mx); code != codeRecordPriority {
		t.Errorf("priority 100: code %q", code)
	}
}

func TestZoneActions(t *testing.T) {
	t.Parallel()
	c := caller{cloud: newZones(t, func(c *PrivateZoneConfig) { c.MaxZones, c.MaxVPCs = 4, 1 })}
	p := c.cloud.PrivateZone()
	want := func(step, code, wanted string) {
		t.Helper()
		if code != wanted {
			t.Errorf("%s: code %q, want %q", step, code, wanted)
		}
	}
	code, answer := c.pvtz(t, "AddZone", map[string]string{"ZoneName": "New.Internal", "ProxyPattern": "RECORD", "DnsGroup": "FAST_ZONE", "ClientToken": "z"})
	want("AddZone", code, "")
	id, _ := answer["ZoneId"].(string)
	code, answer = c.pvtz(t, "AddZone", map[string]string{"ZoneName": "New.Internal", "ProxyPattern": "RECORD", "DnsGroup": "FAST_ZONE", "ClientToken": "z"})
	if want("AddZone again under its token", code, ""); answer["ZoneId"] != id {
		t.Errorf("a second zone was made: %v", answer)
	}
	code, answer = c.pvtz(t, "DescribeZoneInfo", map[string]string{"ZoneId": id})
	if want("DescribeZoneInfo", code, ""); answer["ZoneName"] != "new.internal" || answer["ProxyPattern"] != "RECORD" || answer["DnsGroup"] != "FAST_ZONE" || answer["IsPtr"] != false {
		t.Errorf("zone is %v", answer)
	}
	for name, check := range map[string]bool{"new.internal": false, "free.internal": true, "not a name": false} {
		if _, answer := c.pvtz(t, "CheckZoneName", map[string]string{"ZoneName": name}); answer["Check"] != check {
			t.Errorf("CheckZoneName %s: %v", name, answer)
		}
	}
	code, _ = c.pvtz(t, "AddZone", map[string]string{"ZoneName": "a b"})
	want("a bad name", code, codeZoneName)

	bind := func(vpcs ...string) (code string) {
		params := map[string]string{"ZoneId": id}
		for i, v := range vpcs {
			n := strconv.Itoa(i + 1)
			params["Vpcs."+n+".VpcId"], params["Vpcs."+n+".RegionId"] = v, DefaultRegion
		}
		code, _ = c.pvtz(t, "BindZoneVpc", params)
		return code
	}
	bound := func() []string {
		zones := p.Zones()
		return zones[slices.IndexFunc(zones, func(z aliyun.Zone) bool { return z.ID == id })].VPCs
	}
	want("bind", bind(otherVPC), "")
	want("bind another instead", bind(DefaultVPC), "")
	if got := bound(); !slices.Equal(got, []string{DefaultVPC}) {
		t.Errorf("bound to %v: the list replaces what was", got)
	}
	want("bind to nothing there is", bind("vpc-none"), codeZoneVPC)
	want("bind to too many", bind(DefaultVPC, otherVPC), codeZoneVPCQuota)
	code, _ = c.pvtz(t, "DeleteZone", map[string]string{"ZoneId": id})
	want("delete a bound zone", code, codeZoneVPCExists)
	want("bind to none", bind(), "")
	code, _ = c.pvtz(t, "DeleteZone", map[string]string{"ZoneId": id})
	want("delete", code, "")
	code, _ = c.pvtz(t, "DeleteZone", map[string]string{"ZoneId": id})
	want("delete again", code, codeZoneNotExists)

	twin, err := p.AddZone(NewZone{Name: "example.internal"})
	if err != nil {
		t.Fatalf("a zone of the same name: %v", err)
	}
	if err := p.Bind(twin, DefaultVPC); err == nil {
		t.Error("a VPC was bound to two zones of one name")
	}
	if _, err := p.AddZone(NewZone{Name: "b.internal"}); err != nil {
		t.Fatal(err)
	}
	code, _ = c.pvtz(t, "AddZone", map[string]string{"ZoneName": "c.internal"})
	want("a zone too many", code, codeZoneQuota)
}

func TestDescribeZonesSelects(t *testing.T) {
	t.Parallel()
	c := caller{cloud: newZones(t, func(c *PrivateZoneConfig) {
		c.Zones = append(c.Zones, NewZone{Name: "sub.example.internal", VPCs: []string{otherVPC}})
	})}
	for query, want := range map[string]int{
		"": 3, "Keyword=EXAMPLE": 2, "Keyword=example.internal&SearchMode=EXACT": 1, "QueryVpcId=" + otherVPC: 1, "QueryVpcId=x": 0,
		"QueryRegionId=" + DefaultRegion: 3, "QueryRegionId=elsewhere": 0, "ZoneType=AUTH_ZONE": 3, "ZoneType=CLOUD_PRODUCT_ZONE": 0,
	} {
		params := map[string]string{}
		for pair := range strings.SplitSeq(query, "&") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				params[k] = v
			}
		}
		if code, answer := c.pvtz(t, "DescribeZones", params); code != "" || answer["TotalItems"] != float64(want) {
			t.Errorf("%s: %q, %v zones, want %d", query, code, answer["TotalItems"], want)
		}
	}
	if code, _ := c.pvtz(t, "DescribeZones", map[string]string{"Keyword": "x", "SearchMode": "NEAR"}); code == "" {
		t.Error("an unknown search mode was accepted")
	}
}

func TestDescribeRecordsSelects(t *testing.T) {
	t.Parallel()
	c := caller{cloud: newZones(t, func(c *PrivateZoneConfig) { c.NewestFirst = true })}
	for i, rr := range []string{"www", "www2", "api", "@"} {
		if _, err := c.cloud.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: rr, Type: "A", Value: fmt.Sprintf("10.0.0.%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	hosts := func(params map[string]string) string {
		params["ZoneId"] = forwardZone
		code, answer := c.pvtz(t, "DescribeZoneRecords", params)
		if code != "" {
			return code
		}
		var all []string
		for _, r := range answer["Records"].(map[string]any)["Record"].([]any) {
			all = append(all, r.(map[string]any)["Rr"].(string))
		}
		return fmt.Sprint(strings.Join(all, " "), " of ", answer["TotalItems"], " on ", answer["TotalPages"])
	}
	for _, tc := range []struct {
		params map[string]string
		want   string
	}{
		{map[string]string{}, "@ api www2 www of 4 on 1"},
		{map[string]string{"PageSize": "3"}, "@ api www2 of 4 on 2"},
		{map[string]string{"PageSize": "3", "PageNumber": "2"}, "www of 4 on 2"},
		{map[string]string{"PageSize": "3", "PageNumber": "9"}, " of 4 on 2"},
		{map[string]string{"Keyword": "WWW"}, "www of 1 on 1"},
		{map[string]string{"Keyword": "w", "SearchMode": "LIKE"}, "www2 www of 2 on 1"},
		{map[string]string{"Keyword": "@"}, "@ of 1 on 1"},
		{map[string]string{"Keyword": "none"}, " of 0 on 0"},
		{map[string]string{"Keyword": "w", "SearchMode": "NEAR"}, codeInvalidParameter},
		{map[string]string{"PageNumber": "0"}, codeInvalidParameter},
	} {
		if got := hosts(tc.params); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.params, got, tc.want)
		}
	}
}

// A call that is delivered twice has one effect under a token, and two without.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "t"} {
		c := caller{cloud: newZones(t, nil)}
		p := c.cloud.PrivateZone()
		add := map[string]string{"ZoneId": forwardZone, "Rr": "a", "Type": "A", "Value": "10.0.0.1", "ClientToken": token}
		p.Duplicate(Duplicate{Action: "AddZoneRecord"})
		code, answer := c.pvtz(t, "AddZoneRecord", add)
		if token == "" && code != codeRecordConflict || token != "" && code != "" {
			t.Errorf("AddZoneRecord twice with token %q: code %q", token, code)
		}
		records := p.Records(forwardZone)
		if len(records) != 1 {
			t.Fatalf("records are %+v", records)
		}
		if id, ok := answer["RecordId"].(float64); ok && int64(id) != records[0].ID&^1 { // JSON numbers are floats here
			t.Errorf("answer is about %v, the record is %d", id, records[0].ID)
		}

		// A late duplicate of an update undoes what came after it, unless it has a token.
		update := map[string]string{"RecordId": strconv.FormatInt(records[0].ID, 10), "Rr": "a", "Type": "A", "Value": "10.0.0.2"}
		late := map[string]string{"ClientToken": token + token}
		maps.Copy(late, update)
		p.Duplicate(Duplicate{Late: true})
		c.pvtz(t, "UpdateZoneRecord", late)
		update["Value"] = "10.0.0.3"
		c.pvtz(t, "UpdateZoneRecord", update)
		want := "10.0.0.2"
		if token != "" {
			want = "10.0.0.3"
		}
		if got := p.Records(forwardZone)[0].Value; got != want {
			t.Errorf("after a late duplicate with token %q the value is %s, want %s", token, got, want)
		}
	}
}

func TestTokensMayBeIgnored(t *testing.T) {
	t.Parallel()
	c := caller{cloud: newZones(t, func(c *PrivateZoneConfig) { c.IgnoreTokens = true })}
	add := map[string]string{"ZoneId": forwardZone, "Rr": "a", "Type": "A", "Value": "10.0.0.1", "ClientToken": "t"}
	if code, _ := c.pvtz(t, "AddZoneRecord", add); code != "" {
		t.Fatal(code)
	}
	if code, _ := c.pvtz(t, "AddZoneRecord", add); code != codeRecordConflict {
		t.Errorf("code %q, want a conflict", code)
	}
}

// Old tokens are forgotten one by one and, now and then, all of them.
func TestClientTokensAge(t *testing.T) {
	t.Parallel()
	clock := NewManualClock(time.Now(), false)
	c := caller{cloud: newCloud(t, func(c *Config) {
		c.Clock, c.PrivateZone.Zones = clock, []NewZone{{ID: forwardZone, Name: "example.internal"}}
	})}
	add := func(token, value string) string {
		code, _ := c.pvtz(t, "AddZoneRecord", map[string]string{"ZoneId": forwardZone, "Rr": "a", "Type": "TXT", "Value": value, "ClientToken": token})
		return code
	}
	for i := range onceSweep {
		if code := add(strconv.Itoa(i), "v"+strconv.Itoa(i)); code != "" {
			t.Fatal(code)
		}
	}
	clock.Advance(tokenLife + time.Second)
	if code := add("0", "new"); code != "" {
		t.Errorf("a token that is a day old: code %q", code)
	}
	if code := add("next", "next"); code != "" {
		t.Error(code)
	}
	if len(c.cloud.once) != 2 {
		t.Errorf("%d tokens are remembered, want the last two", len(c.cloud.once))
	}
}

// Zones may be slow to count, and a closed service says so.
func TestStaleZones(t *testing.T) {
	t.Parallel()
	for _, stale := range []bool{false, true} {
		c := caller{cloud: newZones(t, func(c *PrivateZoneConfig) { c.StaleZones, c.Closed = stale, stale })}
		if _, err := c.cloud.PrivateZone().Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: "a", Type: "A", Value: "10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		_, answer := c.pvtz(t, "DescribeZoneInfo", map[string]string{"ZoneId": forwardZone})
		if got := answer["RecordCount"] == float64(0); got != stale {
			t.Errorf("RecordCount is %v in a stale zone: %v", answer["RecordCount"], stale)
		}
		want := map[bool]string{false: "OPENED", true: "CLOSED"}[stale]
		if _, answer := c.pvtz(t, "DescribeUserServiceStatus", nil); answer["Status"] != want {
			t.Errorf("status is %v, want %s", answer["Status"], want)
		}
	}
}

func TestPolicyNamesPrivateZone(t *testing.T) {
	t.Parallel()
	c := caller{cloud: newCloud(t, func(c *Config) {
		c.PrivateZone.Zones = []NewZone{{ID: forwardZone, Name: "example.internal"}}
		c.Policies = map[string][]string{DefaultAccessKey: {"pvtz:Describe*"}}
	})}
	if code, _ := c.pvtz(t, "DescribeZones", nil); code != "" {
		t.Errorf("what is allowed: code %q", code)
	}
	in := c.params(pvtzVersion, "DeleteZoneRecord", map[string]string{"RecordId": "1"})
	in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
	if status, answer := c.post(t, in); status != 403 || answer["Code"] != codeForbidden {
		t.Errorf("what is not allowed: %d %v", status, answer)
	}
}

func TestConfiguredZoneIsChecked(t *testing.T) {
	t.Parallel()
	for name, z := range map[string]NewZone{"name": {Name: "a b"}, "VPC": {Name: "a", VPCs: []string{"vpc-none"}}} {
		cfg := DefaultConfig()
		cfg.PrivateZone.Zones = []NewZone{z}
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	p := newZones(t, nil).PrivateZone()
	for name, err := range map[string]error{
		"bind": p.Bind("x", DefaultVPC), "remove zone": p.RemoveZone("x"), "remove": p.Remove(1), "update": p.Update(aliyun.ZoneRecord{ID: 1}),
	} {
		if _, ok := errors.AsType[*refusal](err); !ok {
			t.Errorf("%s of what is not there: %v", name, err)
		}
	}
	if p.Records("x") != nil {
		t.Error("records of a zone that is not there")
	}
}
