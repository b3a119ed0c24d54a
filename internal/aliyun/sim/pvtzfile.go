package sim

import "time"

// A filePrivateZone is PrivateZoneConfig as people write it.
type filePrivateZone struct {
	Zones            []fileDNSZone `json:"zones"`
	Closed           bool          `json:"closed"`
	RoundTTL         bool          `json:"roundTTL"`
	CommaInTXT       bool          `json:"commaInTXT"`
	AnyRemark        bool          `json:"anyRemark"`
	ClampPageSize    bool          `json:"clampPageSize"`
	NewestFirst      bool          `json:"newestFirst"`
	RenumberOnUpdate bool          `json:"renumberOnUpdate"`
	StaleZones       bool          `json:"staleZones"`
	IgnoreTokens     bool          `json:"ignoreTokens"`
	BareLog          bool          `json:"bareLog"`
	LogLag           duration      `json:"logLag"`
	MaxZones         int           `json:"maxZones"`
	MaxRecords       int           `json:"maxRecords"`
	MaxVPCs          int           `json:"maxVPCs"`
}

type fileDNSZone struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	VPCs        []string `json:"vpcs"`
	Recursive   bool     `json:"recursive"`
	Accelerated bool     `json:"accelerated"`
}

// config is what the file says. A zone that names no VPCs is bound to none.
func (f *filePrivateZone) config() PrivateZoneConfig {
	cfg := PrivateZoneConfig{
		Closed: f.Closed, RoundTTL: f.RoundTTL, CommaInTXT: f.CommaInTXT, AnyRemark: f.AnyRemark, ClampPageSize: f.ClampPageSize,
		NewestFirst: f.NewestFirst, RenumberOnUpdate: f.RenumberOnUpdate, StaleZones: f.StaleZones, IgnoreTokens: f.IgnoreTokens,
		BareLog: f.BareLog, LogLag: time.Duration(f.LogLag), MaxZones: f.MaxZones, MaxRecords: f.MaxRecords, MaxVPCs: f.MaxVPCs,
	}
	for _, z := range f.Zones {
		cfg.Zones = append(cfg.Zones, NewZone(z))
	}
	return cfg
}
