package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/strict"
)

// A terwayConfig has the keys of Terway's eni_conf (the ConfigMap eni-config), so that a cluster that comes from there
// keeps its file. Fields that are pointers change the default only where the file has the key.
type terwayConfig struct {
	Version        string              `json:"version"`
	RegionID       string              `json:"region_id"`
	AccessKey      string              `json:"access_key"`
	AccessSecret   string              `json:"access_secret"`
	CredentialPath string              `json:"credential_path"`
	ServiceCIDR    string              `json:"service_cidr"`
	VSwitches      map[string][]string `json:"vswitches"`
	VSwitchPolicy  string              `json:"vswitch_selection_policy"`
	SecurityGroup  string              `json:"security_group"`
	SecurityGroups []string            `json:"security_groups"`
	ResourceGroup  string              `json:"resource_group_id"`
	ENITags        map[string]string   `json:"eni_tags"`
	ENITagFilter   map[string]string   `json:"eni_tag_filter"`
	ENITagBlock    map[string]string   `json:"eni_tag_block_list"`
	RateLimit      map[string]int      `json:"rate_limit"`

	IPStack         string    `json:"ip_stack"`
	MaxPoolSize     *int      `json:"max_pool_size"`
	MinPoolSize     *int      `json:"min_pool_size"`
	WarmUp          *int      `json:"ip_warm_up_size"`
	MinENI          *int      `json:"min_eni"`
	MaxENI          *int      `json:"max_eni"`
	ENICapRatio     *float64  `json:"eni_cap_ratio"`
	ENICapShift     *int      `json:"eni_cap_shift"`
	ENIPolicy       string    `json:"eni_selection_policy"`
	ReclaimAfter    *duration `json:"idle_ip_reclaim_after"`
	ReclaimInterval *duration `json:"idle_ip_reclaim_interval"`
	ReclaimBatch    *int      `json:"idle_ip_reclaim_batch_size"`
	ReclaimJitter   *fraction `json:"idle_ip_reclaim_jitter_factor"`
	StatefulKinds   []string  `json:"custom_stateful_workload_kinds"`

	// These two are of the plugin's own file there, 10-terway.conf, and are taken from here, too.
	VirtualType string   `json:"eniip_virtual_type"`
	HostStack   []string `json:"host_stack_cidrs"`

	terwayIdle
	terwayRefused
}

// terwayIdle are keys that change nothing here; they are noted, so that nobody waits for their effect.
type terwayIdle struct {
	SyncPeriod          any `json:"ip_pool_sync_period"`
	EnableEIPPool       any `json:"enable_eip_pool"`
	EnableEIPMigrate    any `json:"enable_eip_migrate"`
	AllowEIPRob         any `json:"allow_eip_rob"`
	WaitTrunkENI        any `json:"wait_trunk_eni"`
	DisableSGCheck      any `json:"disable_security_group_check"`
	ENICapPolicy        any `json:"eni_cap_policy"`
	DisableDevicePlugin any `json:"disable_device_plugin"`
	HotPlug             any `json:"hot_plug"`
	Prefix              any `json:"prefix"`
}

// terwayRefused are keys of features that are absent: a cluster that relies on them must not be served without.
type terwayRefused struct {
	EnableENITrunking bool           `json:"enable_eni_trunking"`
	EnableERDMA       bool           `json:"enable_erdma"`
	EnableIPPrefix    bool           `json:"enable_ip_prefix"`
	IPAMType          string         `json:"ipam_type"`
	ExtraRoutes       []any          `json:"extra_routes"`
	BackoffOverride   map[string]any `json:"backoff_override"`
	PatchPodIPs       *bool          `json:"enable_patch_pod_ips"`
	KubeClientQPS     float64        `json:"kube_client_qps"`
	KubeClientBurst   int            `json:"kube_client_burst"`
}

// A fraction is written as a number or as text.
type fraction float64

func (f *fraction) UnmarshalJSON(raw []byte) error {
	v, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil {
		return errors.New("use a fraction such as 0.1")
	}
	*f = fraction(v)
	return nil
}

// layTerway lays a file with Terway's keys over the configuration.
func (c *config) layTerway(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var t terwayConfig
	if err := errors.Join(strict.Unmarshal(text, &t), t.check()); err != nil {
		return err
	}
	c.notes = append(c.notes, t.notes()...)
	t.layCloud(c)
	t.layPool(&c.Pool)
	t.layNetwork(&c.Network)
	return nil
}

func (t *terwayConfig) check() error {
	_, cidrErr := parseCIDRs(strings.Split(t.ServiceCIDR, ","))
	_, hostErr := parseCIDRs(t.HostStack)
	_, knownType := virtualTypes[strings.ToLower(t.VirtualType)]
	absent := "is not supported: remove the key"
	return strict.Check([]strict.Rule{
		{OK: t.Version == "" || t.Version == "1", Path: "version", Value: t.Version, Fix: "use 1"},
		{OK: cidrErr == nil, Path: "service_cidr", Value: t.ServiceCIDR, Fix: "use networks such as 172.16.0.0/16, separated by commas"},
		{OK: t.IPStack == "" || t.IPStack == "ipv4" || t.IPStack == "dual", Path: "ip_stack", Value: t.IPStack, Fix: "use ipv4 or dual"},
		{OK: vSwitchPolicies[t.VSwitchPolicy] != "", Path: "vswitch_selection_policy", Value: t.VSwitchPolicy, Fix: "use most, ordered or random"},
		{OK: eniPolicies[t.ENIPolicy] != "", Path: "eni_selection_policy", Value: t.ENIPolicy, Fix: "use most_ips or least_ips"},
		{OK: knownType, Path: "eniip_virtual_type", Value: t.VirtualType, Fix: "use Veth, IPVlan or datapathv2"},
		{OK: hostErr == nil, Path: "host_stack_cidrs", Value: t.HostStack, Fix: "use networks such as 169.254.20.10/32"},
		{OK: t.SecurityGroup == "" || len(t.SecurityGroups) == 0, Path: "security_group", Value: t.SecurityGroup, Fix: "set it or security_groups, not both"},
		{OK: !t.EnableENITrunking, Path: "enable_eni_trunking", Value: t.EnableENITrunking, Fix: absent},
		{OK: !t.EnableERDMA, Path: "enable_erdma", Value: t.EnableERDMA, Fix: absent},
		{OK: !t.EnableIPPrefix, Path: "enable_ip_prefix", Value: t.EnableIPPrefix, Fix: absent},
		{OK: t.IPAMType == "" || t.IPAMType == "default", Path: "ipam_type", Value: t.IPAMType, Fix: "addresses are managed on the node: remove the key"},
		{OK: len(t.ExtraRoutes) == 0, Path: "extra_routes", Value: len(t.ExtraRoutes), Fix: absent},
		{OK: len(t.BackoffOverride) == 0, Path: "backoff_override", Value: len(t.BackoffOverride), Fix: "pauses adapt to the cloud's answers: remove the key, or bound calls by rate_limit"},
		{OK: t.PatchPodIPs == nil || !*t.PatchPodIPs, Path: "enable_patch_pod_ips", Value: true, Fix: "the agent does not write to pods: remove the key"},
		{OK: t.KubeClientQPS == 0 && t.KubeClientBurst == 0, Path: "kube_client_qps", Value: t.KubeClientQPS, Fix: "the agent watches and does not poll: remove the key and kube_client_burst"},
	})
}

// notes names the keys without effect.
func (t *terwayConfig) notes() (notes []string) {
	raw, err := json.Marshal(t.terwayIdle)
	if err != nil {
		return nil // it was read from JSON
	}
	var set map[string]any
	if json.Unmarshal(raw, &set) != nil {
		return nil
	}
	for key, value := range set {
		if value != nil {
			notes = append(notes, fmt.Sprintf("%s: %q: has no effect here and can be removed", key, fmt.Sprint(value)))
		}
	}
	slices.Sort(notes)
	return notes
}

// parseCIDRs passes over empty texts.
func parseCIDRs(texts []string) (cidrs []netip.Prefix, err error) {
	for _, text := range texts {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		cidrs = append(cidrs, p.Masked())
	}
	return cidrs, nil
}

// vSwitchPolicies and eniPolicies translate. Terway's "ordered" takes the vSwitch with the most free addresses; here
// that is most-free, and ordered is the order of the list.
var (
	vSwitchPolicies = map[string]string{"": "random", "random": "random", "ordered": "most-free", "most": "most-free"}
	eniPolicies     = map[string]string{"": "most-ips", "most_ips": "most-ips", "least_ips": "least-ips"}
	virtualTypes    = map[string]cni.Datapath{"": cni.Veth, "veth": cni.Veth, "datapathv2": cni.Veth, "ipvlan": cni.IPVlan}
)

// layNetwork translates how pods are wired. There, datapathv2 is veth with Services in eBPF, which veth is here.
func (t *terwayConfig) layNetwork(to *networkConfig) {
	to.Datapath = virtualTypes[strings.ToLower(t.VirtualType)]
	to.HostNetworks, _ = parseCIDRs(t.HostStack) // checked
}

func (t *terwayConfig) layCloud(c *config) {
	c.Services.CIDRs, _ = parseCIDRs(strings.Split(t.ServiceCIDR, ",")) // checked
	to := &c.Cloud
	to.Region, to.AccessKeyID, to.AccessKeySecret, to.CredentialFile = t.RegionID, t.AccessKey, t.AccessSecret, t.CredentialPath
	to.ResourceGroup, to.ENITags, to.ENITagFilter, to.ENITagBlock = t.ResourceGroup, t.ENITags, t.ENITagFilter, t.ENITagBlock
	to.RateLimits, to.SecurityGroups = t.RateLimit, t.SecurityGroups
	if t.SecurityGroup != "" {
		to.SecurityGroups = []string{t.SecurityGroup}
	}
	to.VSwitchPolicy = vSwitchPolicies[t.VSwitchPolicy]
	for _, ids := range t.VSwitches { // by zone: the pool uses those of the instance's
		to.VSwitches = append(to.VSwitches, ids...)
	}
	slices.Sort(to.VSwitches)
}

func (t *terwayConfig) layPool(to *poolConfig) {
	if t.IPStack != "" {
		to.Stack = t.IPStack
	}
	to.ENIPolicy = eniPolicies[t.ENIPolicy]
	lay(&to.MaxIdle, t.MaxPoolSize)
	if t.MaxPoolSize != nil { // there, the other mark is 0 when it is left out
		to.MinIdle = min(to.MinIdle, to.MaxIdle)
	}
	lay(&to.MinIdle, t.MinPoolSize)
	lay(&to.WarmUp, t.WarmUp)
	lay(&to.MinENIs, t.MinENI)
	lay(&to.MaxENIs, t.MaxENI)
	lay(&to.ENIRatio, t.ENICapRatio)
	lay(&to.ENIShift, t.ENICapShift)
	lay(&to.IdleReclaim.After, t.ReclaimAfter)
	lay(&to.IdleReclaim.Interval, t.ReclaimInterval)
	lay(&to.IdleReclaim.Batch, t.ReclaimBatch)
	lay((*fraction)(&to.IdleReclaim.Jitter), t.ReclaimJitter)
	to.KeepKinds = append(to.KeepKinds, t.StatefulKinds...)
}

func lay[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
