package sim

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Page sizes of PrivateZone.
const (
	pvtzPage    = 20
	pvtzMaxPage = 100
)

// serveZones is an action on zones, with p.mu held.
type serveZones func(*PrivateZone, input) (object, error)

// pvtzActions are the actions of PrivateZone. Those that change something take a ClientToken.
func pvtzActions() map[actionKey]action {
	reads := map[string]struct {
		params []string
		serve  serveZones
	}{
		"DescribeUserServiceStatus": {nil, (*PrivateZone).describeServiceStatus},
		"DescribeZones": {
			[]string{"PageNumber", "PageSize", "Keyword", "SearchMode", "QueryVpcId", "QueryRegionId", "ZoneType"},
			(*PrivateZone).describeZones,
		},
		"DescribeZoneInfo":    {[]string{"ZoneId"}, (*PrivateZone).describeZoneInfo},
		"DescribeZoneRecords": {[]string{"ZoneId", "PageNumber", "PageSize", "Keyword", "SearchMode"}, (*PrivateZone).describeRecords},
		"DescribeZoneRecord":  {[]string{"RecordId"}, (*PrivateZone).describeRecord},
		"DescribeChangeLogs": {
			[]string{"ZoneId", "EntityType", "StartTimestamp", "EndTimestamp", "Keyword", "PageNumber", "PageSize"},
			(*PrivateZone).describeChangeLogs,
		},
		"CheckZoneName": {[]string{"ZoneName"}, (*PrivateZone).checkZoneName},
	}
	recordParams := []string{"Rr", "Type", "Value", "Ttl", "Priority", "Line", "Weight"}
	writes := map[string]struct {
		params []string
		serve  serveZones
	}{
		"AddZone":             {[]string{"ZoneName", "ProxyPattern", "DnsGroup"}, (*PrivateZone).addZoneAction},
		"DeleteZone":          {[]string{"ZoneId"}, (*PrivateZone).deleteZone},
		"BindZoneVpc":         {[]string{"ZoneId", "Vpcs.N.RegionId", "Vpcs.N.VpcId", "Vpcs.N.VpcType"}, (*PrivateZone).bindZoneVPC},
		"AddZoneRecord":       {append(recordParams, "ZoneId", "Remark"), (*PrivateZone).addZoneRecord},
		"UpdateZoneRecord":    {append(recordParams, "RecordId"), (*PrivateZone).updateZoneRecord},
		"UpdateRecordRemark":  {[]string{"RecordId", "Remark"}, (*PrivateZone).updateRecordRemark},
		"SetZoneRecordStatus": {[]string{"RecordId", "Status"}, (*PrivateZone).setRecordStatus},
		"DeleteZoneRecord":    {[]string{"RecordId"}, (*PrivateZone).deleteZoneRecord},
	}
	all := map[actionKey]action{}
	common := []string{"Lang", "UserClientIp"}
	for name, a := range reads {
		all[actionKey{pvtzVersion, name}] = action{params: slices.Concat(common, a.params), serve: readZones(a.serve)}
	}
	for name, a := range writes {
		all[actionKey{pvtzVersion, name}] = action{
			params: slices.Concat(common, a.params, []string{"ClientToken"}), serve: changeZones(name, a.serve),
		}
	}
	return all
}

// PrivateZoneActions returns the names of PrivateZone's actions.
func PrivateZoneActions() []string {
	var names []string
	for key := range maps.Keys(pvtzActions()) {
		names = append(names, key.name)
	}
	slices.Sort(names)
	return names
}

func (f serveZones) locked(p *PrivateZone, in input) (object, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f(p, in)
}

func readZones(serve serveZones) func(*Cloud, input) (object, error) {
	return func(c *Cloud, in input) (object, error) {
		answer, err := serve.locked(c.pvtz, in)
		if err == nil && in.text("Action") == "DescribeZoneRecords" {
			c.pvtz.drift(in.text("ZoneId"), answer)
		}
		return answer, err
	}
}

func changeZones(name string, serve serveZones) func(*Cloud, input) (object, error) {
	deliver := func(c *Cloud, in input) (object, error) { return serve.locked(c.pvtz, in) }
	once := idempotent(deliver)
	return func(c *Cloud, in input) (object, error) {
		if c.pvtz.cfg.IgnoreTokens {
			return c.pvtz.deliver(name, func() (object, error) { return deliver(c, in) })
		}
		return c.pvtz.deliver(name, func() (object, error) { return once(c, in) })
	}
}

// page cuts the part of a list of n items that is asked for.
func (p *PrivateZone) page(in input, n int) (start, end int, answer object, err error) {
	number, err := in.number("PageNumber", 1<<20, 1)
	if err != nil {
		return 0, 0, nil, err
	}
	most := pvtzMaxPage
	if p.cfg.ClampPageSize {
		most = 1 << 20
	}
	size, err := in.number("PageSize", most, pvtzPage)
	if err != nil {
		return 0, 0, nil, err
	}
	size = min(size, pvtzMaxPage)
	start = min((number-1)*size, n)
	return start, min(start+size, n), object{
		"PageNumber": number, "PageSize": size, "TotalItems": n, "TotalPages": (n + size - 1) / size,
	}, nil
}

// keywordIn reports whether the text is what Keyword asks for in the mode.
func keywordIn(in input, mode, text string) (bool, error) {
	keyword := strings.ToLower(in.text("Keyword"))
	switch m := cmp.Or(in.text("SearchMode"), mode); {
	case keyword == "":
		return true, nil
	case m == "EXACT":
		return strings.ToLower(text) == keyword, nil
	case m == "LIKE":
		return strings.Contains(strings.ToLower(text), keyword), nil
	default:
		return false, invalid("SearchMode", m)
	}
}

// whole returns a parameter that is a number within bounds, or absent when it is not there. Code is what refuses it.
func whole(in input, name string, absent int64, code string) (int64, error) {
	v := in.text(name)
	if v == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, refuse(code, "The parameter %s has the value %q.", name, v)
	}
	return n, nil
}

func recordID(in input) (int64, error) {
	if _, err := in.need("RecordId"); err != nil {
		return 0, err
	}
	return whole(in, "RecordId", 0, codeRecordNotExists)
}

// recordOf reads what AddZoneRecord and UpdateZoneRecord have in common.
func recordOf(in input) (aliyun.ZoneRecord, error) {
	for _, name := range []string{"Rr", "Type", "Value"} {
		if _, err := in.need(name); err != nil {
			return aliyun.ZoneRecord{}, err
		}
	}
	r := aliyun.ZoneRecord{RR: in.text("Rr"), Type: in.text("Type"), Value: in.text("Value"), Line: in.text("Line")}
	for _, f := range []struct {
		name string
		into *int
		code string
	}{
		{"Ttl", &r.TTL, codeRecordTTL}, {"Priority", &r.Priority, codeRecordPriority}, {"Weight", &r.Weight, codeRecordWeight},
	} {
		n, err := whole(in, f.name, 0, f.code)
		if err != nil || n < 0 || n > 1<<30 || n == 0 && in.text(f.name) != "" {
			return aliyun.ZoneRecord{}, refuse(f.code, "The parameter %s has the value %q.", f.name, in.text(f.name))
		}
		*f.into = int(n)
	}
	return r, nil
}

func (p *PrivateZone) addZoneRecord(in input) (object, error) {
	zoneID, err := in.need("ZoneId")
	if err != nil {
		return nil, err
	}
	r, err := recordOf(in)
	if err != nil {
		return nil, err
	}
	r.ZoneID, r.Remark = zoneID, in.text("Remark")
	id, err := p.addRecord(r, account())
	if err != nil {
		return nil, err
	}
	return object{"RecordId": id, "Success": true}, nil
}

func (p *PrivateZone) updateZoneRecord(in input) (object, error) {
	r, err := recordOf(in)
	if err != nil {
		return nil, err
	}
	if r.ID, err = recordID(in); err != nil {
		return nil, err
	}
	id, err := p.updateRecord(r, account())
	if err != nil {
		return nil, err
	}
	return object{"RecordId": id}, nil
}

func (p *PrivateZone) updateRecordRemark(in input) (object, error) {
	id, err := recordID(in)
	if err != nil {
		return nil, err
	}
	return object{"RecordId": id}, p.setRemark(id, in.text("Remark"), account())
}

func (p *PrivateZone) setRecordStatus(in input) (object, error) {
	id, err := recordID(in)
	if err != nil {
		return nil, err
	}
	status := in.text("Status")
	if status != statusEnabled && status != statusDisabled {
		return nil, refuse(codeRecordStatus, "The status %q is invalid.", status)
	}
	return object{"RecordId": id, "Status": status}, p.setEnabled(id, status == statusEnabled, account())
}

func (p *PrivateZone) deleteZoneRecord(in input) (object, error) {
	id, err := recordID(in)
	if err != nil {
		return nil, err
	}
	return object{"RecordId": id}, p.removeRecord(id, account())
}

// Status of records.
const (
	statusEnabled  = "ENABLE"
	statusDisabled = "DISABLE"
)

func (r *dnsRecord) describe() object {
	status := statusDisabled
	if r.Enabled {
		status = statusEnabled
	}
	o := object{
		"RecordId": r.ID, "ZoneId": r.ZoneID, "Rr": r.RR, "Type": r.Type, "Value": r.Value, "Ttl": r.TTL, "Priority": r.Priority,
		"Weight": r.Weight, "Line": r.Line, "Status": status, "Remark": r.Remark,
	}
	describeTimes(o, r.created, r.updated)
	return o
}

// describeTimes adds when something was made and changed, to the minute and in milliseconds.
func describeTimes(o object, created, updated time.Time) {
	const minute = "2006-01-02T15:04Z"
	o["CreateTime"], o["CreateTimestamp"] = created.UTC().Format(minute), created.UnixMilli()
	o["UpdateTime"], o["UpdateTimestamp"] = updated.UTC().Format(minute), updated.UnixMilli()
}

func (p *PrivateZone) describeRecord(in input) (object, error) {
	id, err := recordID(in)
	if err != nil {
		return nil, err
	}
	r, _, err := p.record(id)
	if err != nil {
		return nil, err
	}
	return r.describe(), nil
}

func (p *PrivateZone) describeRecords(in input) (object, error) {
	zoneID, err := in.need("ZoneId")
	if err != nil {
		return nil, err
	}
	z, err := p.zone(zoneID)
	if err != nil {
		return nil, err
	}
	found, err := z.search(in)
	if err != nil {
		return nil, err
	}
	start, end, answer, err := p.page(in, len(found))
	if err != nil {
		return nil, err
	}
	if p.cfg.NewestFirst {
		start, end = len(found)-end, len(found)-start
	}
	shown := make([]object, 0, end-start)
	for _, r := range found[start:end] {
		shown = append(shown, r.describe())
	}
	if p.cfg.NewestFirst {
		slices.Reverse(shown)
	}
	answer["Records"] = object{"Record": shown}
	return answer, nil
}

// search returns the records that Keyword asks for, oldest first. The whole zone, and a host, need no search.
func (z *dnsZone) search(in input) ([]*dnsRecord, error) {
	switch keyword := in.text("Keyword"); {
	case keyword == "":
		return z.records, nil
	case cmp.Or(in.text("SearchMode"), "EXACT") == "EXACT":
		found := slices.Clone(z.byHost[hostKey(keyword)])
		slices.SortFunc(found, func(a, b *dnsRecord) int { return cmp.Compare(a.ID, b.ID) })
		return found, nil
	}
	var found []*dnsRecord
	for _, r := range z.records {
		ok, err := keywordIn(in, "EXACT", r.RR)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, r)
		}
	}
	return found, nil
}
