package aliyun

import (
	"context"
	"fmt"
	"time"
)

// A Zone is a zone of PrivateZone: DNS names that the VPCs it is bound to resolve.
type Zone struct {
	ID   string
	Name string // lower case, without the final dot
	// Reverse says that the zone is below in-addr.arpa or ip6.arpa, the only ones that hold PTR records.
	Reverse bool
	// Records is how many there are and Updated when the zone or one of them changed, as far as the cloud keeps up.
	Records int
	Updated time.Time
	VPCs    []string // IDs; none: nobody resolves its names
}

// A ZoneRecord is one value of a name. Several with one RR, Type and Line are an RRset.
type ZoneRecord struct {
	ID     int64
	ZoneID string
	RR     string // the name relative to the zone, "@" for the zone itself; case does not count
	Type   string // A, AAAA, CNAME, MX, PTR, SRV, TXT
	Value  string // as in a zone file; of an MX record without the priority
	TTL    int    // seconds
	// Priority is that of an MX record, 1 to 99.
	Priority int
	Remark   string
	Enabled  bool // a disabled record is not resolved
	Line     string
	Weight   int
}

// A ZoneChange is an entry of the log of changes to records. It may come late, so it is a hint where to look.
type ZoneChange struct {
	ZoneID   string
	RecordID int64 // 0: unknown
	// RR is the host as the log names it, relative to the zone or in full; empty: unknown.
	RR     string
	Type   string // empty: unknown
	Action string // the log's own word, such as "add"
	At     time.Time
}

// A PrivateZone calls the PrivateZone API (2018-01-01). It is safe for concurrent use. Calls are repeated as those of a
// Client are: a change only under a client token, which makes it happen once.
//
// Beside those of every API, errors match ErrRecordConflict, ErrInvalidRecord and ErrZoneGone.
type PrivateZone struct {
	caller  *caller
	product product
}

// privateZoneRate is what the cloud allows an account for AddZoneRecord, and the guess for all other actions.
const privateZoneRate = 20 * 60 // calls per minute and action

// zoneStandard is for PrivateZone, which one process of a cluster calls. What is saved up is little, since the cloud
// counts by the second, and a rate that was halved is whole again while a burst of changes still lasts.
func zoneStandard() standard {
	return standard{perMinute: privateZoneRate, pacing: pacing{saved: time.Second / 2, recovery: 10 * time.Second}}
}

// NewPrivateZone returns a client of the PrivateZone API. It makes no call. The vendor's endpoint is one for all regions.
// Actions that RateLimits lacks have 1200 calls per minute, with a burst of half a second's worth: a PrivateZone may use
// what a whole account has, and adapts when others use it too.
func NewPrivateZone(cfg Config) (*PrivateZone, error) {
	caller, err := newCaller(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure the PrivateZone client: %w", err)
	}
	caller.limits.standard = zoneStandard()
	z := &PrivateZone{caller: caller, product: product{name: "pvtz", version: "2018-01-01"}}
	if z.product.scheme, z.product.host, err = privateZoneEndpoint(cfg); err != nil {
		return nil, fmt.Errorf("configure the PrivateZone client: %w", err)
	}
	return z, caller.metrics.register(cfg.Metrics)
}

// privateZoneEndpoint returns scheme and host. The vendor's endpoints do not follow the rule of the regional products.
func privateZoneEndpoint(cfg Config) (scheme, host string, err error) {
	endpoint := cfg.PVTZEndpoint
	if endpoint == "" {
		endpoint = cfg.Endpoint
	}
	switch {
	case endpoint != "":
	case cfg.Internal:
		endpoint = "pvtz.vpc-proxy.aliyuncs.com"
	default:
		endpoint = "pvtz.aliyuncs.com"
	}
	return parseEndpoint(endpoint, cfg.InsecureHTTP)
}

// SetRateLimits replaces Config.RateLimits. Calls that wait already go on under the new limits.
func (z *PrivateZone) SetRateLimits(rates map[string]int) error { return z.caller.limits.resize(rates) }

// Rate returns how many calls per second the action may make now. It falls when the cloud throttles.
func (z *PrivateZone) Rate(action string) float64 {
	return z.caller.limits.queue(action).perMinute(time.Now()) / 60
}

// read sends an action that changes nothing.
func (z *PrivateZone) read(ctx context.Context, action string, p params, answer any) error {
	return z.caller.call(ctx, request{&z.product, action, p, true}, answer)
}

// change sends an action that changes something, once under its client token, and sorts its errors.
func (z *PrivateZone) change(ctx context.Context, action string, p params, token string, answer any) error {
	if err := checkClientToken(token); err != nil {
		return err
	}
	p.set("ClientToken", token)
	return perRecord(z.caller.call(ctx, request{&z.product, action, p, token != ""}, answer))
}
