package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A VSwitchPolicy says which vSwitch of the zone a new ENI gets.
type VSwitchPolicy string

// The policies for vSwitches.
const (
	MostFree VSwitchPolicy = "most-free" // the one with the most free addresses
	Ordered  VSwitchPolicy = "ordered"   // the first of Settings.VSwitches that has any
	Random   VSwitchPolicy = "random"
)

// An ENIPolicy says which shared ENI a lease is on.
type ENIPolicy string

// The policies for ENIs.
const (
	BalanceQueues ENIPolicy = "balance-queues" // the one with the fewest pods per queue
	MostIPs       ENIPolicy = "most-ips"       // the one with the most addresses, so that others become empty
	LeastIPs      ENIPolicy = "least-ips"
)

// Watermarks say how much to keep ready: addresses of shared ENIs, or exclusive ENIs.
type Watermarks struct {
	// MinIdle are kept free beyond those in use; more than MaxIdle free ones are given back. MinTotal is kept whatever is
	// in use. WarmUp is a total that is reached once after a start. The capacity bounds all of them.
	MinIdle, MaxIdle, MinTotal, WarmUp int
}

// ENILimits bound how many ENIs the pool has beside the primary one. The instance type's limit holds in any case.
type ENILimits struct {
	// Min are kept; Max is the most, 0 for what the instance type allows.
	Min, Max int
	// Ratio and Shift leave a part of the instance type's ENIs to others: with the primary one counted, the pool has at
	// most quantity x Ratio + Shift of them. Ratio 0 means 1.
	Ratio float64
	Shift int
}

// limit is the number of ENIs beside the primary one, of an instance type that allows most of them.
func (b ENILimits) limit(most int) int {
	n := int(float64(most+1)*cmp.Or(b.Ratio, 1)) + b.Shift - 1
	if b.Max > 0 {
		n = min(n, b.Max)
	}
	return max(min(n, most), 0)
}

// IdleReclaim says how slowly what is idle above the marks is given back. Zero fields mean the defaults.
type IdleReclaim struct {
	// After is how long an address must have been free (10 minutes); each Interval (1 minute), longer or shorter by up to
	// the fraction Jitter (0.1), one ENI or Batch addresses (5) go.
	After, Interval time.Duration
	Batch           int
	Jitter          float64
}

// Settings are what Configure may change while the pool works. Zero values mean the defaults that the fields name.
type Settings struct {
	// Watermarks count addresses of shared ENIs: IPv4 ones, to which IPv6 ones are added in pairs.
	Watermarks Watermarks
	// Exclusive counts ENIs; MinTotal and WarmUp are not used.
	Exclusive Watermarks
	ENIs      ENILimits
	// VSwitches for new ENIs; empty means that of the instance. Only those of the instance's zone are used.
	VSwitches     []string
	VSwitchPolicy VSwitchPolicy // MostFree
	// SecurityGroups of the ENIs, existing ones included; empty means those of the instance.
	SecurityGroups []string
	ENIPolicy      ENIPolicy // BalanceQueues
	// Tags are put on new ENIs beside the pool's own and those of TagFilter.
	Tags map[string]string
	// TagFilter holds back adoption: an ENI that the journal does not know must have all of these tags. ENIs with one of
	// TagBlock are left alone; an empty value stands for any.
	TagFilter, TagBlock map[string]string
	ResourceGroupID     string
	// Cooldown is how long a released address rests; 30 seconds. With ReuseCooling one that rests is leased when the pool
	// has no other.
	Cooldown     time.Duration
	ReuseCooling bool
	Idle         IdleReclaim
}

// Limits of the API.
const (
	maxTags           = 20 // CreateNetworkInterface, Tag.N
	maxSecurityGroups = 10
)

// withDefaults fills in what is zero.
func (s Settings) withDefaults() Settings {
	s.VSwitchPolicy = cmp.Or(s.VSwitchPolicy, MostFree)
	s.ENIPolicy = cmp.Or(s.ENIPolicy, BalanceQueues)
	s.Cooldown = cmp.Or(s.Cooldown, 30*time.Second)
	s.ENIs.Ratio = cmp.Or(s.ENIs.Ratio, 1)
	s.Idle.After = cmp.Or(s.Idle.After, 10*time.Minute)
	s.Idle.Interval = cmp.Or(s.Idle.Interval, time.Minute)
	s.Idle.Batch = cmp.Or(s.Idle.Batch, 5)
	s.Idle.Jitter = cmp.Or(s.Idle.Jitter, 0.1)
	return s
}

// Validate returns one error per fault, joined, as Open and Configure do.
func (s Settings) Validate() error { return s.withDefaults().validate() }

// validate returns one error per fault, joined, each with the field, its value and the fix.
func (s Settings) validate() error {
	var errs []error
	fault := func(bad bool, field string, value any, fix string) {
		if bad {
			errs = append(errs, fmt.Errorf("%s is %v: %s", field, value, fix))
		}
	}
	for _, marks := range []struct {
		name string
		Watermarks
	}{{"Watermarks", s.Watermarks}, {"Exclusive", s.Exclusive}} {
		name, w := marks.name, marks.Watermarks
		fault(w.MinIdle < 0, name+".MinIdle", w.MinIdle, "use 0 or more")
		fault(w.MaxIdle < 0, name+".MaxIdle", w.MaxIdle, "use 0 or more")
		fault(w.MinTotal < 0, name+".MinTotal", w.MinTotal, "use 0 or more")
		fault(w.WarmUp < 0, name+".WarmUp", w.WarmUp, "use 0 or more")
		fault(w.MinIdle > w.MaxIdle, name+".MinIdle", w.MinIdle, fmt.Sprintf("use at most MaxIdle, which is %d", w.MaxIdle))
	}
	fault(s.ENIs.Min < 0, "ENIs.Min", s.ENIs.Min, "use 0 or more")
	fault(s.ENIs.Max < 0, "ENIs.Max", s.ENIs.Max, "use 0 for what the instance type allows, or more")
	fault(s.ENIs.Max > 0 && s.ENIs.Min > s.ENIs.Max, "ENIs.Min", s.ENIs.Min, fmt.Sprintf("use at most ENIs.Max, which is %d", s.ENIs.Max))
	fault(s.ENIs.Ratio < 0 || s.ENIs.Ratio > 1, "ENIs.Ratio", s.ENIs.Ratio, "use more than 0, up to 1")
	fault(!slices.Contains([]VSwitchPolicy{MostFree, Ordered, Random}, s.VSwitchPolicy), "VSwitchPolicy", s.VSwitchPolicy, "use most-free, ordered or random")
	fault(!slices.Contains([]ENIPolicy{BalanceQueues, MostIPs, LeastIPs}, s.ENIPolicy), "ENIPolicy", s.ENIPolicy, "use balance-queues, most-ips or least-ips")
	fault(s.Cooldown < 0, "Cooldown", s.Cooldown, "use 0 for the default of 30s, or more")
	fault(s.Idle.After < 0, "Idle.After", s.Idle.After, "use 0 for the default of 10m, or more")
	fault(s.Idle.Interval < 0, "Idle.Interval", s.Idle.Interval, "use 0 for the default of 1m, or more")
	fault(s.Idle.Batch < 0, "Idle.Batch", s.Idle.Batch, "use 0 for the default of 5, or more")
	fault(s.Idle.Jitter < 0 || s.Idle.Jitter > 1, "Idle.Jitter", s.Idle.Jitter, "use a fraction from 0 to 1")
	for _, list := range []struct {
		name string
		ids  []string
	}{{"VSwitches", s.VSwitches}, {"SecurityGroups", s.SecurityGroups}} {
		fault(slices.Contains(list.ids, ""), list.name, fmt.Sprintf("%q", list.ids), "remove the empty ID")
		fault(repeats(list.ids), list.name, list.ids, "name each once")
	}
	fault(len(s.SecurityGroups) > maxSecurityGroups, "SecurityGroups", len(s.SecurityGroups), fmt.Sprintf("an ENI has at most %d: remove some", maxSecurityGroups))
	errs = append(errs, s.validateTags())
	return errors.Join(errs...)
}

func repeats(ids []string) bool {
	sorted := slices.Sorted(slices.Values(ids))
	return len(slices.Compact(sorted)) < len(ids)
}

func (s Settings) validateTags() error {
	var errs []error
	for _, field := range []struct {
		name string
		tags map[string]string
	}{{"Tags", s.Tags}, {"TagFilter", s.TagFilter}, {"TagBlock", s.TagBlock}} {
		for _, key := range slices.Sorted(maps.Keys(field.tags)) {
			switch {
			case key == "" || strings.HasPrefix(key, "aliyun") || strings.HasPrefix(key, "acs:"):
				errs = append(errs, fmt.Errorf("%s key is %q: the cloud refuses empty keys and those that begin with aliyun or acs:; use another", field.name, key))
			case slices.Contains([]string{tagOwner, tagInstance, tagIntent}, key):
				errs = append(errs, fmt.Errorf("%s key is %q: the pool sets this tag itself; use another", field.name, key))
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Tags)) {
		value := s.Tags[key]
		if want, ok := s.TagFilter[key]; ok && want != value {
			errs = append(errs, fmt.Errorf("tag %s of Tags is %q: TagFilter wants %q, so the pool would not know its own ENIs; use the same value", key, value, want))
		}
	}
	made := s.newTags(nil)
	if blocks(s.TagBlock, made) {
		errs = append(errs, fmt.Errorf("TagBlock is %v: the pool's own ENIs have such a tag; remove it from TagBlock or from Tags and TagFilter", s.TagBlock))
	}
	if own := len(identity{}.tags("")); len(made)+own > maxTags {
		errs = append(errs, fmt.Errorf("the tags of Tags and TagFilter are %d: an ENI has %d tags and %d of them are the pool's; remove %d",
			len(made), maxTags, own, len(made)+own-maxTags))
	}
	return errors.Join(errs...)
}

// newTags are those of a new ENI.
func (s Settings) newTags(own map[string]string) map[string]string {
	tags := map[string]string{}
	for _, some := range []map[string]string{s.Tags, s.TagFilter, own} {
		maps.Copy(tags, some)
	}
	return tags
}

// blocks says whether tags hold one of block; an empty value of block stands for any.
func blocks(block, tags map[string]string) bool {
	for key, value := range block {
		if have, ok := tags[key]; ok && (value == "" || value == have) {
			return true
		}
	}
	return false
}
