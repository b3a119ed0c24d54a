package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeConfig(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestReadConfig(t *testing.T) {
	t.Parallel()
	c, err := readConfig(writeConfig(t, `
nodeName: node-a
manifests: /manifests
logLevel: debug
cloud: {endpoint: "http://127.0.0.1:1", vSwitches: [vsw-1]}
pool: {minIdle: 3, maxIdle: 9, cooldown: 1m}
dns: {upstreams: [10.0.0.2]}
`))
	if err != nil {
		t.Fatal(err)
	}
	c.CgroupRoot = "/sys/fs/cgroup"
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.NodeName != "node-a" || c.Pool.MinIdle != 3 || time.Duration(c.Pool.Cooldown) != time.Minute || c.DNS.Upstreams[0] != "10.0.0.2" {
		t.Errorf("read %+v", c)
	}
	if c.ClusterDomain != "cluster.local" || c.DNS.Address.String() != "169.254.20.10" {
		t.Errorf("defaults are gone: %+v", c)
	}
}

// TestConfigErrors: each error names the field, the value and the fix, and all are told at once.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"unknown key":      {"nodName: a", []string{"nodName"}},
		"wrong type":       {"pool: {minIdle: many}", []string{"minIdle"}},
		"bad duration":     {"pool: {cooldown: soon}", []string{"soon"}},
		"negative numbers": {"pool: {minTotal: -5, cooldown: -3s}", []string{"pool.minTotal", "-5", "pool.cooldown", "-3s"}},
		"relative paths":   {"socket: agent.sock\nstateDir: ''", []string{"socket", "agent.sock", "stateDir", "absolute"}},
		"no domain":        {"clusterDomain: ''", []string{"clusterDomain"}},
		"bad upstream":     {"dns: {upstreams: [resolver.example]}", []string{"dns.upstreams", "resolver.example"}},
		"own listener":     {"dns: {upstreams: [169.254.20.10]}", []string{"dns.upstreams", "own listener"}},
		"own IPv6":         {"dns: {address6: 'fd00::53', upstreams: ['[fd00::53]:53']}", []string{"dns.upstreams", "own listener"}},
		"own in a stub":    {"dns: {stubDomains: {corp.example: [169.254.20.10]}}", []string{"dns.stubDomains", "own listener"}},
		"bad address":      {"dns: {address: localhost}", []string{"localhost"}},
		"two sources":      {"kubeconfig: /a\nmanifests: /b", []string{"manifests", "/b", "set one of them"}},
		"public listener":  {"listen: 0.0.0.0:9440", []string{"listen", "0.0.0.0:9440", "loopback"}},
		"IPv6 DNS":         {"dns: {address: '::1'}", []string{"dns.address", "::1", "IPv4"}},
		"bad service":      {"dns: {service: kube-dns}", []string{"dns.service", "kube-dns", "namespace/name"}},
		"watermarks":       {"pool: {minIdle: 5, maxIdle: 2}", []string{"pool.maxIdle", `"2"`, "5"}},
		"policy":           {"cloud: {vSwitchPolicy: fullest}", []string{"cloud.vSwitchPolicy", "fullest", "most-free"}},
		"egress":           {"egress: {mode: nat}", []string{"egress.mode", "nat", "node-snat"}},
		"overlap":          {"services: {cidrs: [172.16.0.0/16, 172.16.8.0/24]}", []string{"services.cidrs", "172.16.8.0/24", "172.16.0.0/16"}},
		"no network":       {"services: {cidrs: [172.16.0.0]}", []string{"services.cidrs[0]", "172.16.0.0"}},
		"take over, named": {"services: {proxyName: a, takeOver: true}", []string{"services.takeOver", "true", "proxyName"}},
		"proxy name":       {"services: {proxyName: a b}", []string{"services.proxyName", "a b", "label"}},
		"gate":             {"services: {externalIPs: sometimes}", []string{"services.externalIPs", "true or false"}},
		"too many groups":  {"cloud: {securityGroups: [a, b, c, d, e, f, g, h, i, j, k]}", []string{"cloud.securityGroups", "11", "10"}},
		"twice":            {"cloud: {vSwitches: [vsw-1, vsw-1]}", []string{"cloud.vSwitches", "vsw-1"}},
		"rates":            {"cloud: {rateLimits: {CreateNetworkInterface: 0}}", []string{"cloud.rateLimits", "CreateNetworkInterface", "at least 1"}},
		"reclaim":          {"pool: {idleReclaim: {batch: 0, jitter: 2, interval: 0s}}", []string{"pool.idleReclaim.batch", "pool.idleReclaim.jitter", "pool.idleReclaim.interval"}},
		"policy flows":     {"policy: {flows: 10}", []string{"policy.flows", "10", "1024"}},
		"ENIs":             {"pool: {minENIs: 3, maxENIs: 2, eniRatio: 0}", []string{"pool.maxENIs", `"2"`, "3", "pool.eniRatio"}},
		"tags":             {"cloud: {eniTags: {'acs:x': a, nearpath: b}}", []string{"acs:x", "nearpath"}},
		"no cooldown":      {"pool: {cooldown: 0s}", []string{"pool.cooldown", "0s", "above"}},
		"stack":            {"pool: {stack: ipv6}", []string{"pool.stack", "ipv6", "dual"}},
		"datapath":         {"network: {datapath: macvlan, hostRoot: host}", []string{"network.hostRoot", "host", "network.datapath", "macvlan", "ipvlan"}},
		"class":            {"network: {runtimeClasses: {fast: bridge}}", []string{"network.runtimeClasses.fast", "bridge", "exclusive"}},
		"sandbox":          {"network: {runtimeClasses: {kata-qemu: ipvlan}}", []string{"network.runtimeClasses.kata-qemu", "ipvlan", "network.sandboxed"}},
		"node ports":       {"services: {nodePortAddresses: [primary, 10.0.0.0/8]}", []string{"services.nodePortAddresses", "primary", "10.0.0.0/8"}},
		"a mesh":           {"network: {meshContainers: [istio-init, '']}", []string{"network.meshContainers[1]", "container"}},
		"pattern":          {"network: {sandboxed: ['[']}", []string{"network.sandboxed[0]", "["}},
		"host networks":    {"network: {hostNetworks: [10.1.2.3/16, 10.1.0.0/24]}", []string{"network.hostNetworks[0]", "10.1.0.0/16", "overlaps"}},
		"exclusive":        {"pool: {exclusive: {minIdle: 2, max: -1}}", []string{"pool.exclusive.maxIdle", "2", "pool.exclusive.max", "-1"}},
		"CNI":              {"cni: {confDir: net.d, confName: nearpath.conf}", []string{"cni.confDir", "net.d", "cni.confName", ".conflist"}},
		"CNI path":         {"cni: {confName: ../05-x.conflist}", []string{"cni.confName", "../05-x.conflist"}},
		"many faults":      {"pool: {minIdle: x, maxIdel: 1}\ndsn: {}", []string{"pool.minIdle", "pool.maxIdel", "did you mean maxIdle", "dsn", "did you mean dns"}},
		"half a key":       {"cloud: {accessKeyID: x}", []string{"cloud.accessKeyID", "cloud.accessKeySecret"}},
		"several at once":  {"listen: 0.0.0.0:1\ndns: {service: x}", []string{"listen", "dns.service"}},
		"not YAML at all":  {"{", []string{"config.yaml"}},
		"empty node names": {"nodeName: ''", []string{"nodeName", "set it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := readConfig(writeConfig(t, tt.text))
			if err == nil {
				err = c.check()
			}
			if err == nil {
				t.Fatal("the configuration was accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add("nodeName: a\ndns: {address: 169.254.20.10}")
	f.Add("pool: {cooldown: 1h, minIdle: -1}")
	f.Add("listen: '[::1]:0'")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := readConfig(writeConfig(t, text)); err == nil {
			_ = c.check()
		}
	})
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
