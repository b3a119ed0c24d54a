package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// example is the file that the documentation shows.
var example = filepath.Join("..", "..", "..", "docs", "simulated-cloud.yaml")

func TestExample(t *testing.T) {
	t.Parallel()
	cfg, instances, err := ReadConfig(example)
	if err != nil {
		t.Fatal(err)
	}
	cloud, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Close()
	all, err := cloud.RunInstances(t.Context(), instances)
	if err != nil || len(all) != len(instances) || len(all) == 0 {
		t.Errorf("%d of %d instances run, %v", len(all), len(instances), err)
	}
	// The example is complete: it shows every key there is.
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(t) {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("the example lacks the key %s", key)
		}
	}
}

// keysOf asks for the keys the way a typo does.
func keysOf(t *testing.T) []string {
	t.Helper()
	_, _, err := ParseConfig([]byte("unheardof: 1"))
	_, list, ok := strings.Cut(fmt.Sprint(err), "here are ")
	if !ok {
		t.Fatalf("an unknown key gives %v", err)
	}
	return strings.Split(list, ", ")
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	t.Parallel()
	cfg, instances, err := ParseConfig(nil)
	if err != nil || len(instances) != 0 {
		t.Fatal(instances, err)
	}
	if want := DefaultConfig(); fmt.Sprint(cfg.VSwitches, cfg.InstanceTypes, cfg.AccessKeys, cfg.RouteTables) !=
		fmt.Sprint(want.VSwitches, want.InstanceTypes, want.AccessKeys, want.RouteTables) {
		t.Errorf("%+v", cfg)
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	cfg, instances, err := ParseConfig([]byte(`
region: cn-test
vSwitches:
- {id: vsw-1, cidr: 10.0.1.0/24, maxAddresses: 9, tags: {a: b}}
- {id: vsw-2, cidr: 10.0.2.0/24, zone: zone-b}
realistic: 0.5
latencies: {CreateNetworkInterface: 1s..2s}
states: {Deleting: 5s}
describeLag: 100ms
tokens: required
ramRole: ""
seed: 18446744073709551615
faults: [{action: DescribeInstances, every: 3, code: Throttling.User}]
rateLimits: [{perMinute: 30, burst: 2}]
clock: {manual: true, start: 2030-01-01T00:00:00Z, stopped: true}
instances: [{type: ecs.sim.small, vSwitch: vsw-1, publicIP: 198.51.100.7}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.RegionID != "cn-test" || len(cfg.VSwitches) != 2 || cfg.VSwitches[0].MaxAddresses != 9 || cfg.RAMRole != "" || cfg.Tokens != TokensRequired {
		t.Errorf("%+v", cfg)
	}
	if cfg.Latencies["CreateNetworkInterface"] != Uniform(time.Second, 2*time.Second) || cfg.States[aliyun.StatusDeleting] != Fixed(5*time.Second) ||
		cfg.States[aliyun.StatusAttaching] != Uniform(1500*time.Millisecond, 4*time.Second) || cfg.MetadataLag != Uniform(500*time.Millisecond, 1500*time.Millisecond) {
		t.Errorf("times: %v %v %v", cfg.Latencies, cfg.States, cfg.MetadataLag)
	}
	if cfg.Seed != 1<<64-1 || cfg.Faults[0].Every != 3 || cfg.RateLimits[0].Burst != 2 || cfg.Clock.Now().Year() != 2030 || !instances[0].PublicIP.IsValid() {
		t.Errorf("%+v %+v", cfg, instances)
	}
	// A way out for each vSwitch, as in the default.
	if got := len(cfg.NATGateways[0].Entries); got != 2 {
		t.Errorf("%d SNAT entries for 2 vSwitches", got)
	}
}

// TestEveryFaultInAFile: a path, a value and a fix for each thing that is wrong, all at once.
func TestEveryFaultInAFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"vSwitches: [{id: a, cidr: 10.0.0.0/33}, {idd: b}]\nseed: -1\nlatencies: {CreateNetworkInterface: soon}": {
			`latencies.CreateNetworkInterface: "soon": use a duration such as 500ms, a range`, `seed: "-1": use a whole number of at least 0`,
			`vSwitches[0].cidr: "10.0.0.0/33": `, `vSwitches[1].idd: "b": no such key: did you mean id?`,
		},
		"vpc: {ipv6CIDR: 10.0.0.0/8}\nvSwitches: [{id: a, cidr: 192.168.0.0/24}, {id: b, cidr: 10.0.0.0/24, ipv6CIDR: 'fd00::/64', vpc: c}]": {
			`vpc.ipv6CIDR: "10.0.0.0/8": use an IPv6 prefix`, `vSwitches[0].cidr: "192.168.0.0/24": use a prefix of at most /29 within [10.0.0.0/16]`,
			`vSwitches[1].vpc: "c": use a VPC that exists`, `vSwitches[1].cidr: "10.0.0.0/24": use a prefix`, `vSwitches[1].ipv6CIDR: "fd00::/64": use a /64 within`,
		},
		"securityGroups: [{type: x}]\ninstanceTypes: [{id: a, enis: 0, addresses: 1}]\nattachFailure: 2\ntokens: maybe\nrealistic: -1": {
			`securityGroups[0].id: "": use a name`, `securityGroups[0].type: "x": use normal or enterprise`, `instanceTypes[0].enis: "0": use a number from 1 to 1000`,
			`attachFailure: "2": use a number from 0 to 1`, `tokens: "maybe": use optional, required or unknown`, `realistic: "-1": use a factor`,
		},
		"states: {Broken: 1s}\nrateLimits: [{action: Reboot}]\nfaults: [{call: -1, hang: often}]\ninstances: [{id: x, type: t, vSwitch: v}]": {
			`states.Broken: "Broken": use Attaching or Detaching or Deleting`, `rateLimits[0].perMinute: "0": use a number above 0`,
			`rateLimits[0].burst: "0": use a number of at least 1`, `rateLimits[0].action: "Reboot": use one of `,
			`faults[0].hang: "often": use before or after`, `faults[0].call: "-1": use a number of at least 1`,
			`instances[0].id: "x": begin it with "i-"`, `instances[0].type: "t": use an instance type that exists`, `instances[0].vSwitch: "v": use a vSwitch that exists`,
		},
		"vSwitches: [{id: a, cidr: 10.0.0.0/24}, {id: b, cidr: 10.0.0.128/25}]":      {`vSwitches[1].cidr: "10.0.0.128/25": do not overlap, or share a name with, a (10.0.0.0/24)`},
		"natGateways: [{id: ngw, snat: [{vSwitch: none}]}]":                          {`NAT gateway "ngw": `},
		"instances: [{type: ecs.sim.small, vSwitch: vsw-pods, primaryIP: 10.0.0.9}]": {`instances[0]: run instance`},
		"a: [": {"not well-formed YAML or JSON"},
	} {
		_, _, err := ParseConfig([]byte(text))
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != len(want) {
			t.Errorf("%d faults, want %d, in\n%s\n%v", len(lines), len(want), text, err)
		}
		for _, w := range want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, w) }) {
				t.Errorf("no fault is %s\n%v", w, err)
			}
		}
	}
	if _, _, err := ReadConfig("none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	text, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("vSwitches: [{id: a, cidr: 10.0.0.0/28, ipv6CIDR: '::/64'}]\nvpc: {cidr: 0.0.0.0/0, ipv6CIDR: '::/0'}"))
	f.Add([]byte("instances: [{type: ecs.sim.tiny, vSwitch: vsw-nodes, ipv6s: -1}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, instances, err := ParseConfig(text)
		if err != nil {
			return
		}
		cloud, err := New(cfg) // what was accepted works
		if err != nil {
			t.Fatal(err)
		}
		defer cloud.Close()
		if _, err := cloud.RunInstances(t.Context(), instances); err != nil {
			t.Error(err)
		}
		checkInvariants(t, cloud, nil)
	})
}

// FuzzParams drives every action with parameters of any kind.
func FuzzParams(f *testing.F) {
	c := newCloud(f, func(c *Config) { *c = DualStackConfig() })
	if _, _, err := c.RunInstance(f.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, IPv6s: 1}); err != nil {
		f.Fatal(err)
	}
	var names []string
	all := actions()
	for key := range all {
		names = append(names, key.name)
	}
	slices.Sort(names)
	f.Add(uint8(0), "NetworkInterfaceId", "eni-sim00000002", "Ipv6AddressCount", "3", "Ipv4PrefixCount", "1")
	f.Add(uint8(1), "VSwitchId", DefaultPodVSwitch, "SecurityGroupId", DefaultSecurityGroup, "Ipv4Prefix.1", "10.0.64.0/28")
	f.Add(uint8(3), "ResourceType", "eni", "ResourceId.1", "eni-sim00000002", "Tag.1.Key", "x")
	f.Add(uint8(7), "InstanceIds", "[null]", "Filter", "x", "MaxResults", "1")
	f.Fuzz(func(t *testing.T, index uint8, k1, v1, k2, v2, k3, v3 string) {
		name := names[int(index)%len(names)]
		in := input{"Action": name, k1: v1, k2: v2, k3: v3}
		for _, version := range []string{ecsVersion, vpcVersion} {
			act, ok := all[actionKey{version, name}]
			if !ok {
				continue
			}
			_, err := act.serve(c, in)
			if err != nil && c.refusalOf(err).status >= 500 {
				t.Errorf("%s(%v): %v", name, in, err)
			}
		}
		checkInvariants(t, c, nil)
	})
}
