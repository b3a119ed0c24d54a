package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestRunInstanceRefuses(t *testing.T) {
	t.Parallel()
	c := newCloud(t, func(c *Config) { c.Fabric = newRecorder() })
	good := InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, PrimaryIP: netip.MustParseAddr("10.0.0.10"), NetNS: "/none"}
	in, eni, err := c.RunInstance(t.Context(), good)
	if err != nil || in.ID != "i-1" || eni.PrimaryIP != good.PrimaryIP || eni.Type != aliyun.TypePrimary || eni.Status != aliyun.StatusInUse {
		t.Errorf("RunInstance = %+v, %+v, %v", in, eni, err)
	}
	for name, change := range map[string]func(*InstanceSpec){
		"same ID":      func(s *InstanceSpec) { s.PrimaryIP = netip.Addr{} },
		"address":      func(s *InstanceSpec) { s.ID = "i-2" },
		"type":         func(s *InstanceSpec) { s.ID, s.Type = "i-2", "none" },
		"vSwitch":      func(s *InstanceSpec) { s.ID, s.VSwitchID = "i-2", "none" },
		"no namespace": func(s *InstanceSpec) { s.ID, s.NetNS = "i-2", "" },
	} {
		bad := good
		change(&bad)
		if _, _, err := c.RunInstance(t.Context(), bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := c.TerminateInstance(t.Context(), "i-9"); err == nil {
		t.Error("an unknown instance is terminated")
	}
	if err := c.TerminateInstance(t.Context(), "i-1"); err != nil || len(c.ENIs()) != 0 {
		t.Errorf("terminate: %v, %d ENIs left", err, len(c.ENIs()))
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix
	for name, change := range map[string]func(*Config){
		"region":          func(c *Config) { c.RegionID = "" },
		"VPC CIDR":        func(c *Config) { c.VPCCIDR = netip.Prefix{} },
		"IPv6 VPC":        func(c *Config) { c.VPCCIDR = prefix("fd00::/48") },
		"no vSwitch":      func(c *Config) { c.VSwitches = nil },
		"outside":         func(c *Config) { c.VSwitches[0].CIDR = prefix("10.1.0.0/24") },
		"larger":          func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.0/8") },
		"overlap":         func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.64.0/24") },
		"host bits":       func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.1/24") },
		"too small":       func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.0/30") },
		"security groups": func(c *Config) { c.SecurityGroups = nil },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAddrPool(t *testing.T) {
	t.Parallel()
	p := newAddrPool("vsw", netip.MustParsePrefix("10.0.0.0/29"), 0)
	if p.gateway != netip.MustParseAddr("10.0.0.5") || p.free() != 4 {
		t.Errorf("gateway %s, %d free; want 10.0.0.5 and 4", p.gateway, p.free())
	}
	first, err := p.take(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.take(2); err == nil || p.free() != 1 {
		t.Errorf("took 2 of 1: %v, %d free", err, p.free())
	}
	p.release(first[:1])
	next, err := p.take(1)
	if err != nil || next[0] == first[0] {
		t.Errorf("the freed address %s is given again while another is free: %v", first[0], next)
	}
	if last, err := p.take(1); err != nil || last[0] != first[0] || p.free() != 0 {
		t.Errorf("take = %v, %v with %d free", last, err, p.free())
	}
	for cidr, gateway := range map[string]string{
		"10.0.64.0/20": "10.0.79.253", "10.0.0.0/8": "10.255.255.253", "2001:db8:1::/64": "2001:db8:1::ffff:ffff:ffff:fffd",
	} {
		if got := newAddrPool("vsw", netip.MustParsePrefix(cidr), 0).gateway; got != netip.MustParseAddr(gateway) {
			t.Errorf("gateway of %s is %s, want %s", cidr, got, gateway)
		}
	}
	wide := newAddrPool("vsw", netip.MustParsePrefix("2001:db8:1::/64"), 0)
	if got, err := wide.take(2); err != nil || got[0] != netip.MustParseAddr("2001:db8:1::1") || wide.free() < 1e6 {
		t.Errorf("take from a /64 = %v, %v, %d free", got, err, wide.free())
	}
}

// Prefixes are taken whole, from what has no address in use.
func TestAddrPoolPrefixes(t *testing.T) {
	t.Parallel()
	p := newAddrPool("vsw", netip.MustParsePrefix("10.0.0.0/25"), 0)
	addrs, err := p.take(16) // 1 to 16: the first two blocks are spoilt
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.takePrefixes(nil, 5)
	if want := "[10.0.0.32/28 10.0.0.48/28 10.0.0.64/28 10.0.0.80/28 10.0.0.96/28]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("prefixes %v, %v; want %s", got, err, want)
	}
	before := p.free()
	if _, err := p.takePrefixes(nil, 1); err == nil { // the last block holds the gateway
		t.Error("a sixth prefix is found")
	}
	if _, err := p.takePrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.0.16/28"), got[0]}, 0); err == nil || p.free() != before {
		t.Errorf("taken twice: %v, %d free of %d", err, p.free(), before)
	}
	p.release(addrs)
	if _, err := p.takePrefixes([]netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}, 0); err != nil {
		t.Error(err)
	}
}

func TestMetadataKeys(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	_, first, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	if c.metadataOf("192.0.2.1:1", "")["instance-id"] != "i-1" {
		t.Error("a stranger does not get the only instance")
	}
	_, second, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-2", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	if c.metadataOf("192.0.2.1:1", "") != nil {
		t.Error("a stranger gets an instance although there are two")
	}
	keys := c.metadataOf(netip.AddrPortFrom(second.PrimaryIP, 1000).String(), "")
	base := "network/interfaces/macs/" + second.MAC + "/"
	want := map[string]string{
		"instance-id": "i-2", "private-ipv4": second.PrimaryIP.String(), "mac": second.MAC, "vswitch-cidr-block": "10.0.0.0/24",
		base + "network-interface-id": second.ID, base + "gateway": "10.0.0.253", base + "netmask": "255.255.255.0",
		base + "private-ipv4s": fmt.Sprintf("[%q]", second.PrimaryIP), base + "vpc-cidr-block": "10.0.0.0/16",
		"network/interfaces/macs/": second.MAC + "/", "network/interfaces": "macs/", "ram/security-credentials/": DefaultRAMRole,
		"ram/": "security-credentials/", "instance/": "instance-type",
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got, ok := lookup(keys, key); !ok || got != want[key] {
			t.Errorf("%s = %q, %v; want %q", key, got, ok, want[key])
		}
	}
	for _, key := range []string{"none", "network/interfaces/macs/" + first.MAC, "instance-id/", "instance-i"} {
		if got, ok := lookup(keys, key); ok {
			t.Errorf("%s = %q, want nothing", key, got)
		}
	}
}

func FuzzMetadataLookup(f *testing.F) {
	c := newCloud(f, nil)
	if _, _, err := c.RunInstance(f.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch}); err != nil {
		f.Fatal(err)
	}
	f.Add("network/interfaces/macs/", "10.0.0.1:80")
	f.Add("//", "[::ffff:10.0.0.1]:80")
	f.Fuzz(func(t *testing.T, key, remote string) {
		if text, ok := lookup(c.metadataOf(remote, ""), key); ok && text == "" {
			t.Errorf("lookup(%q) is empty", key)
		}
	})
}
