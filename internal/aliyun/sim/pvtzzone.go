package sim

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (p *PrivateZone) describeServiceStatus(input) (object, error) {
	if p.cfg.Closed {
		return object{"Status": "CLOSED"}, nil
	}
	return object{"Status": "OPENED"}, nil
}

func (p *PrivateZone) describeZones(in input) (object, error) {
	var found []*dnsZone
	for _, id := range slices.Sorted(maps.Keys(p.zones)) {
		z := p.zones[id]
		ok, err := keywordIn(in, "LIKE", z.name)
		if err != nil {
			return nil, err
		}
		vpc, region, kind := in.text("QueryVpcId"), in.text("QueryRegionId"), in.text("ZoneType")
		if ok && (vpc == "" || slices.Contains(z.vpcs, vpc)) && (region == "" || region == p.region && len(z.vpcs) > 0) &&
			(kind == "" || kind == zoneType) {
			found = append(found, z)
		}
	}
	start, end, answer, err := p.page(in, len(found))
	if err != nil {
		return nil, err
	}
	shown := []object{}
	for _, z := range found[start:end] {
		o := p.describeZone(z)
		o["Vpcs"] = object{"Vpc": p.describeVPCs(z)}
		shown = append(shown, o)
	}
	answer["Zones"] = object{"Zone": shown}
	return answer, nil
}

// zoneType is that of zones people make.
const zoneType = "AUTH_ZONE"

func (p *PrivateZone) describeZoneInfo(in input) (object, error) {
	z, err := p.neededZone(in)
	if err != nil {
		return nil, err
	}
	o := p.describeZone(z)
	o["SlaveDns"], o["BindVpcs"] = false, object{"Vpc": p.describeVPCs(z)}
	return o, nil
}

func (p *PrivateZone) neededZone(in input) (*dnsZone, error) {
	id, err := in.need("ZoneId")
	if err != nil {
		return nil, err
	}
	return p.zone(id)
}

func (p *PrivateZone) describeZone(z *dnsZone) object {
	count, updated := len(z.records), z.touched
	if p.cfg.StaleZones {
		count, updated = z.shown, z.changed
	}
	pattern, group := "ZONE", "NORMAL_ZONE"
	if z.recursive {
		pattern = "RECORD"
	}
	if z.accelerated {
		group = "FAST_ZONE"
	}
	o := object{
		"ZoneId": z.id, "ZoneName": z.name, "IsPtr": z.reverse(), "RecordCount": count, "Remark": z.remark, "ProxyPattern": pattern,
		"DnsGroup": group, "DnsGroupChanging": false, "ZoneType": zoneType, "Creator": account().creator,
	}
	describeTimes(o, z.created, updated)
	return o
}

func (p *PrivateZone) describeVPCs(z *dnsZone) []object {
	shown := []object{}
	for _, id := range z.vpcs {
		shown = append(shown, object{"VpcId": id, "VpcName": id, "VpcType": "STANDARD", "VpcUserId": account().creator, "RegionId": p.region, "RegionName": p.region})
	}
	return shown
}

func (p *PrivateZone) checkZoneName(in input) (object, error) {
	name, err := in.need("ZoneName")
	if err != nil {
		return nil, err
	}
	free := isZoneName(name)
	for _, z := range p.zones {
		free = free && !strings.EqualFold(z.name, name)
	}
	return object{"Check": free, "Success": true}, nil
}

func (p *PrivateZone) addZoneAction(in input) (object, error) {
	name, err := in.need("ZoneName")
	if err != nil {
		return nil, err
	}
	n := NewZone{Name: name}
	switch v := in.text("ProxyPattern"); v {
	case "", "ZONE":
	case "RECORD":
		n.Recursive = true
	default:
		return nil, invalid("ProxyPattern", v)
	}
	switch v := in.text("DnsGroup"); v {
	case "", "NORMAL_ZONE":
	case "FAST_ZONE":
		n.Accelerated = true
	default:
		return nil, invalid("DnsGroup", v)
	}
	z, err := p.addZone(n, account())
	if err != nil {
		return nil, err
	}
	return object{"ZoneId": z.id, "ZoneName": z.name, "Success": true}, nil
}

func (p *PrivateZone) deleteZone(in input) (object, error) {
	z, err := p.neededZone(in)
	if err != nil {
		return nil, err
	}
	if len(z.vpcs) > 0 {
		return nil, refuse(codeZoneVPCExists, "The zone is bound to %d VPCs.", len(z.vpcs))
	}
	p.removeZone(z, account())
	return object{"ZoneId": z.id}, nil
}

// bindZoneVPC replaces all bindings by those that are listed, which may be none.
func (p *PrivateZone) bindZoneVPC(in input) (object, error) {
	z, err := p.neededZone(in)
	if err != nil {
		return nil, err
	}
	var ids []string
	for i := 1; i <= maxList; i++ {
		prefix := "Vpcs." + strconv.Itoa(i)
		id, region := in.text(prefix+".VpcId"), in.text(prefix+".RegionId")
		if id == "" && region == "" {
			break
		}
		if id == "" || region == "" {
			return nil, missing(prefix)
		}
		if region != p.region {
			return nil, refuse(codeZoneVPC, "The specified VPC %s does not exist in %s.", id, region)
		}
		ids = append(ids, id)
	}
	return object{}, p.bind(z, p.vpcsOf(ids), account())
}

// logLife is how long the change log goes back: six months.
const logLife = 183 * 24 * time.Hour

func (p *PrivateZone) describeChangeLogs(in input) (object, error) {
	start, err := whole(in, "StartTimestamp", 0, codeInvalidParameter)
	if err != nil {
		return nil, err
	}
	end, err := whole(in, "EndTimestamp", 1<<62, codeInvalidParameter)
	if err != nil {
		return nil, err
	}
	now := p.now()
	var found []logEntry
	for _, e := range slices.Backward(p.log) { // newest first
		ms := e.at.UnixMilli()
		if ms < start || now.Sub(e.at) > logLife {
			break
		}
		if ms <= end && now.Sub(e.at) >= p.cfg.LogLag && e.isAsked(in) {
			found = append(found, e)
		}
	}
	first, last, answer, err := p.page(in, len(found))
	if err != nil {
		return nil, err
	}
	shown := []object{}
	for _, e := range found[first:last] {
		shown = append(shown, e.describe())
	}
	answer["ChangeLogs"] = object{"ChangeLog": shown}
	return answer, nil
}

// isAsked reports whether the entry is among those the request selects. With a zone, only its records are.
func (e *logEntry) isAsked(in input) bool {
	if id := in.text("ZoneId"); id != "" && (id != e.zoneID || e.object != objectRecord) {
		return false
	}
	kind, keyword := in.text("EntityType"), strings.ToLower(in.text("Keyword"))
	if (kind == objectZone || kind == objectRecord) && kind != e.object {
		return false
	}
	return strings.Contains(strings.ToLower(e.name+" "+e.content), keyword)
}

func (e *logEntry) describe() object {
	return object{
		"Id": e.id, "EntityId": e.entity, "EntityName": e.name, "OperAction": e.action, "OperObject": e.object,
		"OperTime": e.at.UTC().Format("2006-01-02T15:04Z"), "OperTimestamp": e.at.UnixMilli(), "OperIp": e.by.ip,
		"Content": e.content, "CreatorId": e.by.creator, "CreatorType": "USER", "CreatorSubType": e.by.subType,
	}
}
