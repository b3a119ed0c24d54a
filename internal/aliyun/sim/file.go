package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/strict"
)

// A file is a configuration as people write it. What it leaves out is as in DefaultConfig, but for lists: one that is there
// replaces the default's.
type file struct {
	Region           string              `json:"region"`
	Zone             string              `json:"zone"`
	VPC              fileVPC             `json:"vpc"`
	MoreVPCs         []fileVPC           `json:"moreVPCs"`
	VSwitches        []fileVSwitch       `json:"vSwitches"`
	SecurityGroups   []fileGroup         `json:"securityGroups"`
	InstanceTypes    []fileType          `json:"instanceTypes"`
	NATGateways      []fileGateway       `json:"natGateways"`
	RouteTables      []fileTable         `json:"routeTables"`
	AccessKeys       map[string]string   `json:"accessKeys"`
	Policies         map[string][]string `json:"policies"`
	RAMRole          *string             `json:"ramRole"`
	OIDC             fileOIDC            `json:"oidc"`
	Tokens           string              `json:"tokens"`
	PrivateZone      filePrivateZone     `json:"privateZone"`
	Instances        []fileInstance      `json:"instances"`
	Quotas           fileQuotas          `json:"quotas"`
	Realistic        float64             `json:"realistic"`
	Latencies        map[string]Latency  `json:"latencies"`
	States           map[string]Latency  `json:"states"`
	DescribeLag      *Latency            `json:"describeLag"`
	MetadataLag      *Latency            `json:"metadataLag"`
	AttachFailure    float64             `json:"attachFailure"`
	Conflicts        bool                `json:"conflicts"`
	RateLimits       []RateLimit         `json:"rateLimits"`
	Faults           []Fault             `json:"faults"`
	Seed             uint64              `json:"seed"`
	IgnoreUnknown    bool                `json:"ignoreUnknown"`
	AnyTime          bool                `json:"anyTime"`
	ControlByAnybody bool                `json:"controlByAnybody"`
	MaxCalls         int                 `json:"maxCalls"`
	Clock            fileClock           `json:"clock"`
}

type fileVPC struct {
	ID             string         `json:"id"`
	CIDR           netip.Prefix   `json:"cidr"`
	IPv6CIDR       netip.Prefix   `json:"ipv6CIDR"`
	SecondaryCIDRs []netip.Prefix `json:"secondaryCIDRs"`
	UserCIDRs      []netip.Prefix `json:"userCIDRs"`
}

type fileVSwitch struct {
	ID           string            `json:"id"`
	VPC          string            `json:"vpc"`
	Zone         string            `json:"zone"`
	CIDR         netip.Prefix      `json:"cidr"`
	IPv6CIDR     netip.Prefix      `json:"ipv6CIDR"`
	MaxAddresses int               `json:"maxAddresses"`
	Tags         map[string]string `json:"tags"`
}

type fileGroup struct {
	ID             string            `json:"id"`
	VPC            string            `json:"vpc"`
	Type           string            `json:"type"`
	ServiceManaged bool              `json:"serviceManaged"`
	MaxMembers     int               `json:"maxMembers"`
	Tags           map[string]string `json:"tags"`
}

type fileType struct {
	ID            string  `json:"id"`
	CPUs          int     `json:"cpus"`
	MemoryGiB     float64 `json:"memoryGiB"`
	ENIs          int     `json:"enis"`
	TotalENIs     int     `json:"totalENIs"`
	Addresses     int     `json:"addresses"`
	IPv6Addresses int     `json:"ipv6Addresses"`
	Queues        int     `json:"queues"`
	MaxQueues     int     `json:"maxQueues"`
	PrimaryQueues int     `json:"primaryQueues"`
	TotalQueues   int     `json:"totalQueues"`
	Bandwidth     int     `json:"bandwidth"`
	PPS           int     `json:"pps"`
}

type fileGateway struct {
	ID          string       `json:"id"`
	NetworkType string       `json:"networkType"`
	IPs         []netip.Addr `json:"ips"`
	SNAT        []fileSNAT   `json:"snat"`
}

type fileSNAT struct {
	VSwitch string       `json:"vSwitch"`
	CIDR    netip.Prefix `json:"cidr"`
}

type fileTable struct {
	ID        string      `json:"id"`
	Type      string      `json:"type"`
	VSwitches []string    `json:"vSwitches"`
	Routes    []fileRoute `json:"routes"`
}

type fileRoute struct {
	Destination netip.Prefix `json:"destination"`
	NextHopType string       `json:"nextHopType"`
	NextHop     string       `json:"nextHop"`
}

type fileOIDC struct {
	RoleARN     string `json:"roleARN"`
	ProviderARN string `json:"providerARN"`
	Token       string `json:"token"`
}

type fileInstance struct {
	ID        string            `json:"id"`
	Type      string            `json:"type"`
	VSwitch   string            `json:"vSwitch"`
	PrimaryIP netip.Addr        `json:"primaryIP"`
	IPv6s     int               `json:"ipv6s"`
	PublicIP  netip.Addr        `json:"publicIP"`
	Elastic   bool              `json:"elastic"`
	Tags      map[string]string `json:"tags"`
}

type fileQuotas struct {
	ENIs         int `json:"enis"`
	VSwitchPages int `json:"vSwitchPages"`
}

type fileClock struct {
	Manual  bool      `json:"manual"`
	Start   time.Time `json:"start"`
	Stopped bool      `json:"stopped"`
}

// A duration is written as time.ParseDuration reads it.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("use a duration such as 30s")
	}
	*d = duration(v)
	return nil
}

// ReadConfig reads a configuration and the instances to run from a YAML file. The error joins a fault for each thing that is
// wrong: path, value, fix.
func ReadConfig(path string) (Config, []InstanceSpec, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, nil, fmt.Errorf("read the configuration of the simulated cloud: %w", err)
	}
	cfg, instances, err := ParseConfig(text)
	if err != nil {
		return Config{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, instances, nil
}

// ParseConfig is ReadConfig for a text.
func ParseConfig(text []byte) (Config, []InstanceSpec, error) {
	var f file
	if err := strict.Unmarshal(text, &f); err != nil {
		return Config{}, nil, err
	}
	cfg := DefaultConfig()
	f.layNetwork(&cfg)
	f.layTypes(&cfg)
	f.layAccess(&cfg)
	f.layBehaviour(&cfg)
	cfg.PrivateZone = f.PrivateZone.config()
	var specs []InstanceSpec
	for _, i := range f.Instances {
		specs = append(specs, InstanceSpec{
			ID: i.ID, Type: i.Type, VSwitchID: i.VSwitch, PrimaryIP: i.PrimaryIP, IPv6s: i.IPv6s, PublicIP: i.PublicIP,
			Elastic: i.Elastic, Tags: i.Tags,
		})
	}
	checked := cfg // complete fills in
	if err := errors.Join(checked.complete(), strict.Check(f.checkTokens()), strict.Check(checkSpecs(&checked, specs))); err != nil {
		return Config{}, nil, err
	}
	// The rest of the rules are those of the objects themselves: routes, gateways, free addresses.
	cloud, err := New(cfg)
	if err != nil {
		return Config{}, nil, err
	}
	defer func() { _ = cloud.Close() }() // it never fails
	_, err = cloud.RunInstances(context.Background(), specs)
	return cfg, specs, err
}

func (f *file) layNetwork(cfg *Config) {
	cfg.RegionID, cfg.ZoneID = orDefault(f.Region, cfg.RegionID), orDefault(f.Zone, cfg.ZoneID)
	cfg.VPCID = orDefault(f.VPC.ID, cfg.VPCID)
	if f.VPC.CIDR.IsValid() {
		cfg.VPCCIDR = f.VPC.CIDR
	}
	cfg.VPCIPv6CIDR, cfg.SecondaryCIDRs, cfg.UserCIDRs = f.VPC.IPv6CIDR, f.VPC.SecondaryCIDRs, f.VPC.UserCIDRs
	for _, v := range f.MoreVPCs {
		cfg.MoreVPCs = append(cfg.MoreVPCs, MoreVPC{ID: v.ID, CIDR: v.CIDR})
	}
	if f.VSwitches != nil {
		cfg.VSwitches = nil
		for _, v := range f.VSwitches {
			cfg.VSwitches = append(cfg.VSwitches, VSwitch{
				ID: v.ID, VPCID: v.VPC, ZoneID: v.Zone, CIDR: v.CIDR, IPv6CIDR: v.IPv6CIDR, MaxAddresses: v.MaxAddresses, Tags: v.Tags,
			})
		}
		defaultNetwork(cfg)
	}
	if f.NATGateways != nil || f.RouteTables != nil {
		cfg.NATGateways, cfg.RouteTables = f.gateways(), f.tables()
	}
}

func (f *file) gateways() []NATGateway {
	var all []NATGateway
	for _, g := range f.NATGateways {
		gateway := NATGateway{ID: g.ID, NetworkType: g.NetworkType, IPs: g.IPs}
		for _, e := range g.SNAT {
			gateway.Entries = append(gateway.Entries, aliyun.SNATEntry{VSwitchID: e.VSwitch, SourceCIDR: e.CIDR})
		}
		all = append(all, gateway)
	}
	return all
}

func (f *file) tables() []aliyun.RouteTable {
	var all []aliyun.RouteTable
	for _, t := range f.RouteTables {
		table := aliyun.RouteTable{ID: t.ID, Type: orDefault(t.Type, aliyun.RouteTableSystem), VSwitchIDs: t.VSwitches}
		for _, r := range t.Routes {
			table.Routes = append(table.Routes, aliyun.Route{Destination: r.Destination, NextHopType: r.NextHopType, NextHopID: r.NextHop})
		}
		all = append(all, table)
	}
	return all
}

func (f *file) layTypes(cfg *Config) {
	if f.InstanceTypes != nil {
		cfg.InstanceTypes = nil
	}
	for _, t := range f.InstanceTypes {
		cfg.InstanceTypes = append(cfg.InstanceTypes, InstanceType{
			InstanceType: aliyun.InstanceType{
				ID: t.ID, ENIs: t.ENIs, TotalENIs: t.TotalENIs, AddressesPerENI: t.Addresses, IPv6PerENI: t.IPv6Addresses,
				QueuesPerENI: t.Queues, MaxQueuesPerENI: t.MaxQueues,
			},
			CPUs: t.CPUs, MemoryGiB: t.MemoryGiB, PrimaryQueues: t.PrimaryQueues, TotalQueues: t.TotalQueues,
			Bandwidth: t.Bandwidth, PPS: t.PPS,
		})
	}
	if f.SecurityGroups != nil {
		cfg.SecurityGroups = nil
	}
	for _, g := range f.SecurityGroups {
		cfg.SecurityGroups = append(cfg.SecurityGroups, SecurityGroup{
			SecurityGroup: aliyun.SecurityGroup{ID: g.ID, VPCID: g.VPC, Type: g.Type, ServiceManaged: g.ServiceManaged},
			MaxMembers:    g.MaxMembers, Tags: g.Tags,
		})
	}
}

// tokenModes are how the file calls them.
func tokenModes() map[string]TokenMode {
	return map[string]TokenMode{"": TokensOptional, "optional": TokensOptional, "required": TokensRequired, "unknown": TokensUnknown}
}

func (f *file) checkTokens() []strict.Rule {
	_, ok := tokenModes()[f.Tokens]
	return []strict.Rule{
		{OK: ok, Path: "tokens", Value: f.Tokens, Fix: "use optional, required or unknown"},
		{OK: f.Realistic >= 0 && f.Realistic <= 100, Path: "realistic", Value: f.Realistic, Fix: "use a factor from 0 to 100"},
	}
}

func (f *file) layAccess(cfg *Config) {
	if f.AccessKeys != nil {
		cfg.AccessKeys = f.AccessKeys
	}
	cfg.Policies, cfg.Tokens = f.Policies, tokenModes()[f.Tokens]
	if f.RAMRole != nil {
		cfg.RAMRole = *f.RAMRole
	}
	cfg.OIDC = OIDCTrust{RoleARN: f.OIDC.RoleARN, ProviderARN: f.OIDC.ProviderARN, Token: f.OIDC.Token}
	cfg.IgnoreUnknown = f.IgnoreUnknown
	if f.AnyTime {
		cfg.ClockSkew = -1
	}
	if f.ControlByAnybody {
		cfg.Control = ControlAnyone
	}
}

func (f *file) layBehaviour(cfg *Config) {
	if f.Realistic > 0 {
		cfg.Realistic(f.Realistic)
	}
	cfg.Latencies, cfg.States = merged(cfg.Latencies, f.Latencies), merged(cfg.States, f.States)
	if f.DescribeLag != nil {
		cfg.DescribeLag = *f.DescribeLag
	}
	if f.MetadataLag != nil {
		cfg.MetadataLag = *f.MetadataLag
	}
	cfg.AttachFailure, cfg.Conflicts, cfg.RateLimits, cfg.Faults = f.AttachFailure, f.Conflicts, f.RateLimits, f.Faults
	cfg.MaxENIs, cfg.MaxVSwitchPages = f.Quotas.ENIs, f.Quotas.VSwitchPages
	cfg.Seed, cfg.MaxCalls = f.Seed, f.MaxCalls
	if f.Clock.Manual {
		start := f.Clock.Start
		if start.IsZero() {
			start = time.Now()
		}
		cfg.Clock = NewManualClock(start, !f.Clock.Stopped)
	}
}

func merged(under, over map[string]Latency) map[string]Latency {
	all := maps.Clone(under)
	if all == nil {
		all = map[string]Latency{}
	}
	maps.Copy(all, over)
	return all
}

// checkSpecs checks the names in instances.
func checkSpecs(cfg *Config, specs []InstanceSpec) []strict.Rule {
	var rules []strict.Rule
	for i, s := range specs {
		path := fmt.Sprintf("instances[%d].", i)
		rules = append(rules,
			strict.Rule{OK: s.ID == "" || strings.HasPrefix(s.ID, "i-"), Path: path + "id", Value: s.ID, Fix: `begin it with "i-"`},
			strict.Rule{
				OK:   slices.ContainsFunc(cfg.InstanceTypes, func(t InstanceType) bool { return t.ID == s.Type }),
				Path: path + "type", Value: s.Type, Fix: "use an instance type that exists",
			},
			strict.Rule{
				OK:   slices.ContainsFunc(cfg.VSwitches, func(v VSwitch) bool { return v.ID == s.VSwitchID }),
				Path: path + "vSwitch", Value: s.VSwitchID, Fix: "use a vSwitch that exists",
			},
			between(path+"ipv6s", s.IPv6s, 0, maxAddresses[aliyun.IPv6]))
	}
	return rules
}
