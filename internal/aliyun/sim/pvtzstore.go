package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A dnsZone is a zone with its records. PrivateZone.mu guards it.
type dnsZone struct {
	id, name      string
	remark        string
	recursive     bool
	accelerated   bool
	vpcs          []string
	created       time.Time
	changed       time.Time // the zone itself
	touched       time.Time // the zone or a record
	shown         int       // RecordCount when the zone itself changed
	serial        uint32
	records       []*dnsRecord            // oldest first
	byHost        map[string][]*dnsRecord // by hostKey, oldest first
	enabledAround map[string]int          // enabled records at a host and below it
}

// A dnsRecord is one value of a name.
type dnsRecord struct {
	aliyun.ZoneRecord
	created, updated time.Time
}

// A logEntry is a line of the change log.
type logEntry struct {
	id           int
	zoneID       string
	object       string // PV_ZONE or PV_RECORD
	action       string
	entity, name string
	content      string
	at           time.Time
	by           actor
}

const (
	objectZone   = "PV_ZONE"
	objectRecord = "PV_RECORD"
)

// hostKey is a host in lower case, empty for the zone itself.
func hostKey(rr string) string {
	if rr == "@" {
		return ""
	}
	return strings.ToLower(rr)
}

// parentKey is the key of the name above; the zone itself has none.
func parentKey(key string) (string, bool) {
	if key == "" {
		return "", false
	}
	_, parent, _ := strings.Cut(key, ".")
	return parent, true
}

func (z *dnsZone) reverse() bool {
	return strings.HasSuffix("."+z.name, ".in-addr.arpa") || strings.HasSuffix("."+z.name, ".ip6.arpa")
}

// insert adds the record to the zone.
func (z *dnsZone) insert(r *dnsRecord) {
	i, _ := slices.BinarySearchFunc(z.records, r.ID, byRecordID)
	z.records = slices.Insert(z.records, i, r)
	key := hostKey(r.RR)
	z.byHost[key] = append(z.byHost[key], r)
	if r.Enabled {
		z.count(key, 1)
	}
}

// take removes the record from the zone.
func (z *dnsZone) take(r *dnsRecord) {
	i, _ := slices.BinarySearchFunc(z.records, r.ID, byRecordID)
	z.records = slices.Delete(z.records, i, i+1)
	key := hostKey(r.RR)
	z.byHost[key] = slices.DeleteFunc(z.byHost[key], func(o *dnsRecord) bool { return o == r })
	if len(z.byHost[key]) == 0 {
		delete(z.byHost, key)
	}
	if r.Enabled {
		z.count(key, -1)
	}
}

func byRecordID(r *dnsRecord, id int64) int {
	switch {
	case r.ID < id:
		return -1
	case r.ID > id:
		return 1
	}
	return 0
}

// count keeps how many enabled records are at the host and below every name above it.
func (z *dnsZone) count(key string, n int) {
	for ok := true; ok; key, ok = parentKey(key) {
		if z.enabledAround[key] += n; z.enabledAround[key] == 0 {
			delete(z.enabledAround, key)
		}
	}
}

// The functions below are called with p.mu held.

func (p *PrivateZone) zone(id string) (*dnsZone, error) {
	switch z := p.zones[id]; {
	case z != nil:
		return z, nil
	case len(id) != zoneIDLength:
		return nil, refuse(codeZoneID, "Zone id is invalid.")
	}
	return nil, refuse(codeZoneNotExists, "The specified zone does not exist.")
}

func (p *PrivateZone) record(id int64) (*dnsRecord, *dnsZone, error) {
	r := p.records[id]
	if r == nil {
		return nil, nil, refuse(codeRecordNotExists, "The specified record does not exist.")
	}
	return r, p.zones[r.ZoneID], nil
}

// zoneIDLength is that of the IDs the service gives.
const zoneIDLength = 32

func (p *PrivateZone) addZone(n NewZone, by actor) (*dnsZone, error) {
	name := strings.ToLower(strings.TrimSuffix(n.Name, "."))
	if !isZoneName(name) {
		return nil, refuse(codeZoneName, "The zone name %q is invalid.", n.Name)
	}
	if len(p.zones) >= p.cfg.MaxZones {
		return nil, refuse(codeZoneQuota, "The account has %d zones.", len(p.zones))
	}
	p.seq++
	if n.ID == "" {
		sum := sha256.Sum256(strconv.AppendInt([]byte("zone "), int64(p.seq), 10))
		n.ID = hex.EncodeToString(sum[:])[:zoneIDLength]
	}
	if p.zones[n.ID] != nil {
		return nil, fmt.Errorf("zone ID %s is taken", n.ID)
	}
	now := p.now()
	z := &dnsZone{
		id: n.ID, name: name, recursive: n.Recursive, accelerated: n.Accelerated, created: now, serial: 1,
		byHost: map[string][]*dnsRecord{}, enabledAround: map[string]int{},
	}
	p.zones[z.id] = z
	p.changedZone(z, "add", by)
	return z, nil
}

func (p *PrivateZone) removeZone(z *dnsZone, by actor) {
	for _, r := range z.records {
		delete(p.records, r.ID)
	}
	delete(p.zones, z.id)
	p.changedZone(z, "delete", by)
}

// vpcsOf are distinct IDs.
func (p *PrivateZone) vpcsOf(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (p *PrivateZone) bind(z *dnsZone, vpcs []string, by actor) error {
	for _, id := range vpcs {
		if !slices.Contains(p.vpcs, id) {
			return refuse(codeZoneVPC, "The specified VPC %s does not exist.", id)
		}
		for _, other := range p.zones {
			if other != z && other.name == z.name && slices.Contains(other.vpcs, id) {
				return refuse(codeZoneVPCTaken, "The VPC %s is bound to another zone %s.", id, z.name)
			}
		}
	}
	if len(vpcs) > p.cfg.MaxVPCs {
		return refuse(codeZoneVPCQuota, "A zone is bound to at most %d VPCs.", p.cfg.MaxVPCs)
	}
	z.vpcs = vpcs
	p.changedZone(z, "bind", by)
	return nil
}

func (p *PrivateZone) changedZone(z *dnsZone, action string, by actor) {
	z.changed, z.touched, z.shown = p.now(), p.now(), len(z.records)
	p.write(logEntry{zoneID: z.id, object: objectZone, action: action, entity: z.id, name: z.name, content: action + " " + z.name, by: by})
	p.notify()
}

func (p *PrivateZone) changedRecord(r *dnsRecord, z *dnsZone, action string, by actor) {
	r.updated, z.touched = p.now(), p.now()
	z.serial++
	e := logEntry{
		zoneID: z.id, object: objectRecord, action: action, entity: strconv.FormatInt(r.ID, 10), name: r.RR, by: by,
		content: fmt.Sprintf("%s %s %s %s %d", action, r.Type, r.RR, r.Value, r.TTL),
	}
	if p.cfg.BareLog {
		e.entity, e.name, e.content = z.id, z.name, action
	}
	p.write(e)
	p.notify()
}

func (p *PrivateZone) write(e logEntry) {
	p.seq++
	e.id, e.at = p.seq, p.now()
	p.log = append(p.log, e)
}

func (p *PrivateZone) addRecord(r aliyun.ZoneRecord, by actor) (int64, error) {
	z, err := p.zone(r.ZoneID)
	if err != nil {
		return 0, err
	}
	if err := p.complete(&r, z, 0); err != nil {
		return 0, err
	}
	if len(z.records) >= p.quota(z) {
		return 0, refuse(codeRecordQuota, "The zone has %d records.", len(z.records))
	}
	p.lastRecord++
	r.ID, r.Enabled = p.lastRecord, true
	rec := &dnsRecord{ZoneRecord: r, created: p.now()}
	p.records[r.ID] = rec
	z.insert(rec)
	p.changedRecord(rec, z, "add", by)
	return r.ID, nil
}

// quota is how many records the zone may have.
func (p *PrivateZone) quota(z *dnsZone) int {
	switch {
	case p.cfg.MaxRecords > 0:
		return p.cfg.MaxRecords
	case z.recursive:
		return maxRecursiveRecords
	}
	return maxZoneRecords
}

// updateRecord replaces what UpdateZoneRecord does: neither remark nor state. It returns the record's ID afterwards.
func (p *PrivateZone) updateRecord(r aliyun.ZoneRecord, by actor) (int64, error) {
	old, z, err := p.record(r.ID)
	if err != nil {
		return 0, err
	}
	r.ZoneID, r.Remark, r.Enabled = old.ZoneID, old.Remark, old.Enabled
	if err := p.complete(&r, z, r.ID); err != nil {
		return 0, err
	}
	z.take(old)
	delete(p.records, old.ID)
	if p.cfg.RenumberOnUpdate {
		p.lastRecord++
		r.ID = p.lastRecord
	}
	rec := &dnsRecord{ZoneRecord: r, created: old.created}
	p.records[r.ID] = rec
	z.insert(rec)
	p.changedRecord(rec, z, "update", by)
	return r.ID, nil
}

func (p *PrivateZone) setRemark(id int64, remark string, by actor) error {
	r, z, err := p.record(id)
	if err != nil {
		return err
	}
	if err := p.checkRemark(remark); err != nil {
		return err
	}
	r.Remark = remark
	p.changedRecord(r, z, "updateRemark", by)
	return nil
}

func (p *PrivateZone) setEnabled(id int64, enabled bool, by actor) error {
	r, z, err := p.record(id)
	if err != nil || r.Enabled == enabled {
		return err
	}
	r.Enabled = enabled
	action, n := "pause", -1
	if enabled {
		action, n = "resume", 1
	}
	z.count(hostKey(r.RR), n)
	p.changedRecord(r, z, action, by)
	return nil
}

func (p *PrivateZone) removeRecord(id int64, by actor) error {
	r, z, err := p.record(id)
	if err != nil {
		return err
	}
	z.take(r)
	delete(p.records, id)
	p.changedRecord(r, z, "delete", by)
	return nil
}
