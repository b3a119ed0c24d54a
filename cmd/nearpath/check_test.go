package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// simulated starts a simulated cloud with one instance and returns it with the configuration that reaches it.
func simulated(t *testing.T, change func(*sim.Config)) (*sim.Cloud, string) {
	t.Helper()
	cfg := sim.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cloud.Handler())
	t.Cleanup(func() { server.Close(); _ = cloud.Close() })
	if _, _, err := cloud.RunInstance(t.Context(), sim.InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch}); err != nil {
		t.Fatal(err)
	}
	return cloud, fmt.Sprintf(`
cgroupRoot: /sys/fs/cgroup
services: {cidrs: [172.21.0.0/20]}
cloud:
  endpoint: %s
  metadata: %[1]s
  accessKeyID: %s
  accessKeySecret: %s
  vSwitches: [%s]
`, server.URL, sim.DefaultAccessKey, sim.DefaultAccessSecret, sim.DefaultPodVSwitch)
}

// checked runs a check and returns its findings by check and object, and the error it ended with.
func checked(t *testing.T, args ...string) (map[string]findingView, error) {
	t.Helper()
	out, err := execute(t, append([]string{"check", "-o", "json"}, args...)...)
	var views []findingView
	if jsonErr := json.Unmarshal([]byte(out), &views); jsonErr != nil {
		t.Fatalf("%v: %q, %v", args, out, err)
	}
	found := map[string]findingView{}
	for _, v := range views {
		found[v.Check+" "+v.Object] = v
	}
	return found, err
}

func isUsage(err error) bool {
	var usage usageError
	return errors.As(err, &usage)
}

func TestCheckHealthy(t *testing.T) {
	t.Parallel()
	_, text := simulated(t, nil)
	path := writeConfig(t, text)
	found, err := checked(t, "config", "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	if f := found["egress "+sim.DefaultPodVSwitch]; f.Severity != "ok" || f.Result != "ready" || len(f.Values) != 2 {
		t.Errorf("egress: %+v", f)
	}
	for key, f := range found {
		if f.Severity == "error" || f.Severity == "warning" {
			t.Errorf("%s: %+v", key, f)
		}
	}
	out, err := execute(t, "check", "egress", "--config", path)
	if err != nil || !slices.Equal(strings.Fields(strings.SplitN(out, "\n", 2)[0]), []string{"CHECK", "OBJECT", "RESULT", "VALUES", "FIX"}) ||
		!strings.Contains(out, "ok: ready") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	cloud, text := simulated(t, func(c *sim.Config) {
		c.VSwitches = append(c.VSwitches, sim.VSwitch{ID: "vsw-far", ZoneID: "zone-far", CIDR: netip.MustParsePrefix("10.0.128.0/20")})
	})
	if err := cloud.RemoveSNATEntry("snat-" + sim.DefaultPodVSwitch); err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(text, "172.21.0.0/20", "10.0.80.0/20", 1)
	text = strings.Replace(text, "cloud:\n", "cloud:\n  region: cn-elsewhere\n", 1)
	text = strings.Replace(text, "[vsw-pods]", "[vsw-pods, vsw-none]", 1) + "dns: {address: 10.0.80.10}\n"
	path := writeConfig(t, text)
	found, err := checked(t, "config", "--config", path)
	if err == nil || isUsage(err) {
		t.Errorf("ended with %v, want a failure", err)
	}
	for key, want := range map[string]string{
		"region i-1": "configured: cn-elsewhere; instance: cn-simulated",
		"service-cidr-overlap Service CIDR 10.0.80.0/20 and VPC CIDR 10.0.0.0/16": "10.0.80.0/20; 10.0.0.0/16",
		"node-dns-address 10.0.80.10 and Service CIDR 10.0.80.0/20":               "10.0.80.10; 10.0.80.0/20",
		"vswitch-missing vsw-none": "region: cn-simulated",
		"egress vsw-pods":          "default route of vtb-simulated goes to ngw-simulated; NAT gateway ngw-simulated has no SNAT entry for vSwitch vsw-pods (10.0.64.0/20)",
	} {
		f, ok := found[key]
		if !ok || f.Severity != "error" || strings.Join(f.Values, "; ") != want || f.Fix == "" {
			t.Errorf("%s: %+v, want %q", key, f, want)
		}
	}
	// The same for people, and the way out alone.
	out, err := execute(t, "check", "egress", "--config", path)
	if err == nil || !strings.Contains(out, "error: no SNAT entry") || strings.Contains(out, "region") {
		t.Errorf("check egress: %v\n%s", err, out)
	}
	far := writeConfig(t, strings.Replace(text, "[vsw-pods, vsw-none]", "[vsw-far]", 1))
	if found, _ := checked(t, "config", "--config", far); found["zone i-1"].Result != "mismatch" {
		t.Errorf("a vSwitch of another zone: %+v", found)
	}
}

func TestCheckWithFewRights(t *testing.T) {
	t.Parallel()
	cloud, text := simulated(t, nil)
	cloud.Inject(sim.Fault{Action: "DescribeNatGateways", Times: 9, Code: "Forbidden.RAM", HTTPStatus: 403})
	found, err := checked(t, "egress", "--config", writeConfig(t, text))
	if f := found["egress "+sim.DefaultPodVSwitch]; err != nil || f.Severity != "unknown" || !strings.Contains(f.Fix, "vpc:DescribeNatGateways") {
		t.Errorf("%+v, %v", found, err)
	}
	cloud.Inject(sim.Fault{Action: "DescribeInstances", Times: 9, Code: "Forbidden.RAM", HTTPStatus: 403})
	found, err = checked(t, "config", "--config", writeConfig(t, text))
	if f := found["cloud-read instance"]; err != nil || f.Severity != "unknown" || !strings.Contains(f.Fix, "ecs:DescribeInstances") {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestCheckOffline(t *testing.T) {
	t.Parallel()
	config := func(text string) string { return writeConfig(t, "cgroupRoot: /sys/fs/cgroup\n"+text) }
	if out, err := execute(t, "check", "config", "--offline", "--config", config("")); err != nil || out != "nothing wrong was found\n" {
		t.Errorf("an empty file: %q, %v", out, err)
	}
	for name, tc := range map[string]struct{ text, finding string }{
		"node DNS is a Service": {"services: {cidrs: [169.254.0.0/16]}", "reserved-range Service CIDR 169.254.0.0/16"},
		"min above max":         {"pool: {minIdle: 5, maxIdle: 4}", "setting pool.maxIdle"},
		"unknown key":           {"poool: {}", "setting poool"},
	} {
		found, err := checked(t, "config", "--offline", "--config", config(tc.text))
		if f, ok := found[tc.finding]; err == nil || isUsage(err) || !ok || f.Severity != "error" || f.Fix == "" {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	found, err := checked(t, "config", "--offline", "--config", config("pool: {minIdle: -1, maxIdle: -3}\negress: {mode: x}"))
	if len(found) != 3 || err == nil {
		t.Errorf("three faults: %+v, %v", found, err)
	}
	found, err = checked(t, "config", "--offline", "--config", config("pool: ["))
	if len(found) != 1 || err == nil || isUsage(err) {
		t.Errorf("a malformed file: %+v, %v", found, err)
	}
}

func TestCheckUsage(t *testing.T) {
	t.Parallel()
	noMetadata := writeConfig(t, "cgroupRoot: /sys/fs/cgroup\ncloud: {metadata: 'http://127.0.0.1:1'}\n")
	for name, args := range map[string][]string{
		"no such file":    {"check", "config", "--offline", "--config", filepath.Join(t.TempDir(), "none")},
		"no such output":  {"check", "egress", "-o", "yaml"},
		"egress offline":  {"check", "egress", "--offline"},
		"no such check":   {"check", "moon"},
		"not an instance": {"check", "config", "--config", noMetadata},
	} {
		if out, err := execute(t, args...); !isUsage(err) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}
