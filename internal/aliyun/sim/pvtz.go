package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const pvtzVersion = "2018-01-01"

// PrivateZoneConfig says what is in PrivateZone from the start, and how it behaves where the real one is not documented.
// The zero value is a service without zones, in its strictest reading.
type PrivateZoneConfig struct {
	Zones []NewZone
	// VPCs may be bound to zones beside the VPC of the cloud.
	VPCs []string
	// Closed says that the account has not opened the service; its actions work nevertheless.
	Closed bool

	// RoundTTL takes the nearest TTL there is for one there is not, instead of refusing it.
	RoundTTL bool
	// CommaInTXT allows commas in the values of TXT records.
	CommaInTXT bool
	// AnyRemark allows every character in remarks; the length stays limited.
	AnyRemark bool
	// ClampPageSize answers with the largest page there is to a larger PageSize, instead of refusing it.
	ClampPageSize bool
	// NewestFirst lists records in the order of their age turned round, so that a new one moves all others.
	NewestFirst bool
	// RenumberOnUpdate gives a record a new ID when it is updated.
	RenumberOnUpdate bool
	// StaleZones leaves RecordCount and UpdateTimestamp of zones as they were when the zone itself last changed.
	StaleZones bool
	// IgnoreTokens carries out every call, whatever its ClientToken.
	IgnoreTokens bool
	// LogLag is how long after a change the change log shows it.
	LogLag time.Duration
	// BareLog names only the zone in entries about records, neither the record nor its host.
	BareLog bool

	// MaxZones, MaxRecords of a zone and MaxVPCs of a zone are quotas; zero: 500, 100,000 (4,000 in a zone with recursive
	// proxy) and 100.
	MaxZones, MaxRecords, MaxVPCs int
}

// NewZone describes a zone to make.
type NewZone struct {
	ID   string // empty: a new one
	Name string
	VPCs []string // bound to it
	// Recursive makes names the zone does not have names of the outside (ProxyPattern RECORD).
	Recursive bool
	// Accelerated zones have weights and lines (DnsGroup FAST_ZONE).
	Accelerated bool
}

// Quotas of the real service.
const (
	maxZones            = 500
	maxZoneRecords      = 100_000
	maxRecursiveRecords = 4_000
	maxZoneVPCs         = 100
)

// firstRecordID is beyond what a float64 counts by one, so that a client that reads numbers as such mixes up records.
const firstRecordID = 1<<53 + 1

// A PrivateZone is the DNS of the VPCs: its zones can be changed by the API, and by the methods here, which stand for
// somebody else who edits them. Methods are safe for concurrent use.
type PrivateZone struct {
	cfg    PrivateZoneConfig
	region string
	vpcs   []string
	now    func() time.Time

	mu         sync.Mutex // guards everything below
	seq        int        // of zones and log entries
	lastRecord int64
	zones      map[string]*dnsZone
	records    map[int64]*dnsRecord
	log        []logEntry    // oldest first
	changed    chan struct{} // closed when records or bindings change; nil while nobody waits
	onPage     func(RecordPage)
	duplicates []*Duplicate
	late       []func() // deliveries that are still to come
}

// newPrivateZone makes the zones of the Config.
func (c *Cloud) newPrivateZone() error {
	cfg := c.cfg.PrivateZone
	p := &PrivateZone{
		cfg: cfg, region: c.cfg.RegionID, vpcs: append([]string{c.cfg.VPCID}, cfg.VPCs...), now: c.cfg.Now,
		lastRecord: firstRecordID - 1, zones: map[string]*dnsZone{}, records: map[int64]*dnsRecord{},
	}
	for _, v := range c.cfg.MoreVPCs {
		p.vpcs = append(p.vpcs, v.ID)
	}
	p.cfg.MaxZones = cmp.Or(cfg.MaxZones, maxZones)
	p.cfg.MaxVPCs = cmp.Or(cfg.MaxVPCs, maxZoneVPCs)
	for _, z := range cfg.Zones {
		if _, err := p.AddZone(z); err != nil {
			return fmt.Errorf("make zone %s: %w", z.Name, err)
		}
	}
	c.pvtz = p
	return nil
}

// PrivateZone returns the cloud's private DNS.
func (c *Cloud) PrivateZone() *PrivateZone { return c.pvtz }

// An actor is who changes something, as the log shows it.
type actor struct{ creator, subType, ip string }

// account is who calls the API, somebody is who uses the methods of PrivateZone.
func account() actor  { return actor{"1000000000000001", "SUB", "127.0.0.1"} }
func somebody() actor { return actor{"1000000000000001", "CUSTOMER", "192.0.2.1"} }

// AddZone makes a zone and binds it.
func (p *PrivateZone) AddZone(n NewZone) (id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	z, err := p.addZone(n, somebody())
	if err != nil {
		return "", err
	}
	if err := p.bind(z, p.vpcsOf(n.VPCs), somebody()); err != nil {
		delete(p.zones, z.id)
		return "", err
	}
	return z.id, nil
}

// Bind replaces the VPCs a zone is bound to; none: nobody resolves its names.
func (p *PrivateZone) Bind(zoneID string, vpcIDs ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	z, err := p.zone(zoneID)
	if err != nil {
		return err
	}
	return p.bind(z, p.vpcsOf(vpcIDs), somebody())
}

// RemoveZone deletes a zone with its records, bound or not.
func (p *PrivateZone) RemoveZone(zoneID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	z, err := p.zone(zoneID)
	if err != nil {
		return err
	}
	p.removeZone(z, somebody())
	return nil
}

// Add adds a record as somebody else would, by the rules of the service: ZoneID, RR, Type and Value are needed, ID is
// ignored, and a record is enabled.
func (p *PrivateZone) Add(r aliyun.ZoneRecord) (id int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addRecord(r, somebody())
}

// Update replaces all of the record with r.ID but its zone, its remark and its state too.
func (p *PrivateZone) Update(r aliyun.ZoneRecord) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.checkRemark(r.Remark); err != nil {
		return err
	}
	id, err := p.updateRecord(r, somebody())
	if err != nil {
		return err
	}
	if p.records[id].Remark != r.Remark {
		if err := p.setRemark(id, r.Remark, somebody()); err != nil {
			return err
		}
	}
	return p.setEnabled(id, r.Enabled, somebody())
}

// Remove deletes a record.
func (p *PrivateZone) Remove(id int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.removeRecord(id, somebody())
}

// Zones returns all zones, by ID. Records and Updated are those of now, whatever the API shows.
func (p *PrivateZone) Zones() []aliyun.Zone {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []aliyun.Zone
	for _, id := range slices.Sorted(maps.Keys(p.zones)) {
		z := p.zones[id]
		all = append(all, aliyun.Zone{
			ID: z.id, Name: z.name, Reverse: z.reverse(), Records: len(z.records), Updated: z.touched, VPCs: slices.Clone(z.vpcs),
		})
	}
	return all
}

// Records returns the records of the zone, oldest first; none if there is no such zone.
func (p *PrivateZone) Records(zoneID string) []aliyun.ZoneRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	z := p.zones[zoneID]
	if z == nil {
		return nil
	}
	all := make([]aliyun.ZoneRecord, 0, len(z.records))
	for _, r := range z.records {
		all = append(all, r.ZoneRecord)
	}
	return all
}

// Changed returns a channel that closes when a record or a binding changes. Take it before looking, so that no change is
// missed.
func (p *PrivateZone) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

// notify wakes who waits for a change. The caller holds p.mu.
func (p *PrivateZone) notify() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}
