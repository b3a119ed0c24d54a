package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nearpath/nearpath/cni"
)

// terwayExample has every key that is taken over.
const terwayExample = `{
  "version": "1", "region_id": "cn-hangzhou", "access_key": "id", "access_secret": "secret",
  "service_cidr": "172.16.0.0/16, fd00:1::/112", "ip_stack": "dual",
  "vswitches": {"cn-hangzhou-i": ["vsw-b"], "cn-hangzhou-h": ["vsw-a"]}, "vswitch_selection_policy": "ordered",
  "security_group": "sg-1", "resource_group_id": "rg-1",
  "eni_tags": {"team": "net"}, "eni_tag_filter": {"ack": "c1"}, "eni_tag_block_list": {"manual": "true"},
  "rate_limit": {"AttachNetworkInterface": 50},
  "max_pool_size": 7, "min_pool_size": 3, "ip_warm_up_size": 12, "min_eni": 1, "max_eni": 4, "eni_cap_ratio": 0.5, "eni_cap_shift": 1,
  "eni_selection_policy": "least_ips", "idle_ip_reclaim_after": "30m", "idle_ip_reclaim_interval": "2m",
  "idle_ip_reclaim_batch_size": 3, "idle_ip_reclaim_jitter_factor": "0.2",
  "custom_stateful_workload_kinds": ["CloneSet"], "ip_pool_sync_period": "120s",
  "eniip_virtual_type": "IPVlan", "host_stack_cidrs": ["169.254.20.10/32", "10.9.0.0/16"]
}`

func TestTerwayKeys(t *testing.T) {
	t.Parallel()
	eniConf := writeConfig(t, terwayExample)
	c, err := readConfig(writeConfig(t, fmt.Sprintf("nodeName: a\neniConfig: %s\npool: {maxIdle: 9}", eniConf)))
	if err != nil {
		t.Fatal(err)
	}
	cloud := cloudConfig{
		cloudAccess: cloudAccess{
			Metadata: "http://100.100.100.200", AccessKeyID: "id", AccessKeySecret: "secret", RateLimits: map[string]int{"AttachNetworkInterface": 50},
		},
		Region:    "cn-hangzhou",
		VSwitches: []string{"vsw-a", "vsw-b"}, VSwitchPolicy: "most-free", SecurityGroups: []string{"sg-1"}, ResourceGroup: "rg-1",
		ENITags: map[string]string{"team": "net"}, ENITagFilter: map[string]string{"ack": "c1"},
		ENITagBlock: map[string]string{"manual": "true"},
	}
	pool := poolConfig{
		Stack: "dual", MinIdle: 3, MaxIdle: 9 /* the agent's own key wins */, WarmUp: 12, MinENIs: 1, MaxENIs: 4, ENIRatio: 0.5, ENIShift: 1,
		ENIPolicy: "least-ips", SpreadIRQs: true, Cooldown: duration(30 * time.Second),
		IdleReclaim: idleReclaim{After: duration(30 * time.Minute), Interval: duration(2 * time.Minute), Batch: 3, Jitter: 0.2},
		KeepFor:     duration(5 * time.Minute), KeepKinds: []string{"StatefulSet", "CloneSet"},
	}
	services := []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("fd00:1::/112")}
	if diff := cmp.Diff(cloud, c.Cloud, cmp.AllowUnexported(cloudConfig{})); diff != "" {
		t.Errorf("cloud (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pool, c.Pool); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	network := networkConfig{
		Datapath: cni.IPVlan, Sandboxed: sandboxedByDefault, MeshContainers: meshByDefault, HostRoot: "/",
		HostNetworks: []netip.Prefix{netip.MustParsePrefix("169.254.20.10/32"), netip.MustParsePrefix("10.9.0.0/16")},
	}
	if diff := cmp.Diff(network, c.Network, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(services, c.Services.CIDRs, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("Service CIDRs (-want +got):\n%s", diff)
	}
	if len(c.notes) != 1 || !strings.Contains(c.notes[0], "ip_pool_sync_period") || !strings.Contains(c.notes[0], "120s") {
		t.Errorf("notes %q, want one on the key without effect", c.notes)
	}
	c.CgroupRoot = "/sys/fs/cgroup"
	if err := c.check(); err != nil {
		t.Error(err)
	}
}

// TestTerwayRefusals: a key that asks for what is absent, or that nobody knows, is an error that names it.
func TestTerwayRefusals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"trunking":     {`{"enable_eni_trunking": true}`, []string{"enable_eni_trunking", "true", "remove"}},
		"ERDMA":        {`{"enable_erdma": true}`, []string{"enable_erdma"}},
		"prefixes":     {`{"enable_ip_prefix": true}`, []string{"enable_ip_prefix"}},
		"CRD mode":     {`{"ipam_type": "crd"}`, []string{"ipam_type", "crd", "on the node"}},
		"IPv6 only":    {`{"ip_stack": "ipv6"}`, []string{"ip_stack", "ipv6", "dual"}},
		"routes":       {`{"extra_routes": [{"dst": "1.0.0.0/8"}]}`, []string{"extra_routes"}},
		"backoff":      {`{"backoff_override": {"x": {}}}`, []string{"backoff_override", "rate_limit"}},
		"pod IPs":      {`{"enable_patch_pod_ips": true}`, []string{"enable_patch_pod_ips"}},
		"client":       {`{"kube_client_qps": 5}`, []string{"kube_client_qps"}},
		"policy":       {`{"vswitch_selection_policy": "fewest"}`, []string{"vswitch_selection_policy", "fewest", "ordered"}},
		"unknown":      {`{"max_pool_sise": 5}`, []string{"max_pool_sise", "did you mean max_pool_size"}},
		"malformed":    {`{"max_pool_size": 5`, []string{"well-formed"}},
		"wrong type":   {`{"max_pool_size": "five", "vswitches": ["vsw-1"]}`, []string{"max_pool_size", "five", "vswitches", "mapping"}},
		"two groups":   {`{"security_group": "a", "security_groups": ["b"]}`, []string{"security_group", "not both"}},
		"bad CIDR":     {`{"service_cidr": "172.16/16"}`, []string{"service_cidr", "172.16/16"}},
		"datapath":     {`{"eniip_virtual_type": "vlan"}`, []string{"eniip_virtual_type", "vlan", "IPVlan"}},
		"host stack":   {`{"host_stack_cidrs": ["node"]}`, []string{"host_stack_cidrs", "node"}},
		"both at once": {`{"version": "2", "enable_erdma": true}`, []string{"version", "enable_erdma"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeConfig(t, tt.text)
			_, err := readConfig(writeConfig(t, "eniConfig: "+path))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(tt.want, filepath.Base(path)) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func FuzzTerwayConfig(f *testing.F) {
	f.Add(terwayExample)
	f.Add(`{"idle_ip_reclaim_jitter_factor": 0.5, "hot_plug": "x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		c := defaultConfig()
		if c.layTerway(writeConfig(t, text)) == nil {
			_ = c.check()
		}
	})
}
