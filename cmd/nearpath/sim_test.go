package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// startSim runs the command until the test ends, and returns the lines it prints before it serves.
func startSim(t *testing.T, lines int, args ...string) []byte {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	cmd := newRoot()
	cmd.SetArgs(append([]string{"sim", "--listen", "127.0.0.1:0"}, args...))
	cmd.SetOut(in)
	cmd.SetErr(io.Discard)
	done := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		_ = in.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var text []byte
	for b := make([]byte, 1); bytes.Count(text, []byte("\n")) < lines; {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		text = append(text, b...)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return text
}

// What it prints is enough for a client of every part.
func TestSimPrintsWhereItIs(t *testing.T) {
	t.Parallel()
	values := map[string]string{}
	for line := range strings.Lines(string(startSim(t, 12))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	client, err := aliyun.NewClient(aliyun.Config{
		RegionID: values["REGION"], Endpoint: values["ECS_ENDPOINT"], VPCEndpoint: values["VPC_ENDPOINT"],
		Credentials: aliyun.StaticCredentials{AccessKeyID: values["ACCESS_KEY_ID"], AccessKeySecret: values["ACCESS_KEY_SECRET"]},
	})
	if err != nil {
		t.Fatal(err)
	}
	if in, err := client.DescribeInstance(t.Context(), values["INSTANCE"]); err != nil || in.ID != values["INSTANCE"] {
		t.Errorf("%+v, %v from %v", in, err, values)
	}
	for _, url := range []string{values["METADATA"], values["INSTANCE_METADATA"]} {
		if in, err := aliyun.NewMetadata(url).Instance(t.Context()); err != nil || in.ID != values["INSTANCE"] {
			t.Errorf("metadata at %s: %+v, %v", url, in, err)
		}
	}
	if role, err := aliyun.NewMetadata(values["METADATA"]).Role(t.Context()); err != nil || role != values["ROLE"] {
		t.Errorf("role %q, %v", role, err)
	}
	if _, hasDNS := values["DNS"]; hasDNS {
		t.Errorf("there is DNS, unasked: %v", values)
	}
	resp, err := http.Get(values["CONTROL"] + "calls")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), `"action":"DescribeInstances"`) {
		t.Errorf("calls: %s, %v", text, err)
	}
}

func TestSimFromAFile(t *testing.T) {
	t.Parallel()
	var v simView
	example := filepath.Join("..", "..", "docs", "simulated-cloud.yaml")
	if err := json.Unmarshal(startSim(t, 1, "--config", example, "-o", "json"), &v); err != nil {
		t.Fatal(err)
	}
	if v.Region != "cn-example" || len(v.AccessKeys) != 2 || len(v.Instances) != 2 || v.Instances[1].ID != "i-node-2" {
		t.Errorf("%+v", v)
	}
	if in, err := aliyun.NewMetadata(v.Instances[1].Metadata).Instance(t.Context()); err != nil || in.ID != "i-node-2" {
		t.Errorf("%+v, %v", in, err)
	}
}

// A record that is added is resolved, in the zones of the file.
func TestSimResolvesNames(t *testing.T) {
	t.Parallel()
	var v simView
	example := filepath.Join("..", "..", "docs", "simulated-cloud.yaml")
	if err := json.Unmarshal(startSim(t, 1, "--config", example, "-o", "json", "--dns", "127.0.0.1:0"), &v); err != nil {
		t.Fatal(err)
	}
	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: v.Region, PVTZEndpoint: v.PVTZ, Credentials: aliyun.StaticCredentials{AccessKeyID: v.AccessKeys[0].ID, AccessKeySecret: v.AccessKeys[0].Secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	zones, err := client.DescribeZones(t.Context())
	if err != nil || len(zones) != 3 {
		t.Fatalf("zones are %+v, %v", zones, err)
	}
	if _, err := client.AddRecord(t.Context(), aliyun.AddRecord{ZoneID: "zone-example", RR: "www", Type: "A", Value: "10.0.0.9", ClientToken: "t"}); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, v.DNS)
		}}
		if addrs, err := resolver.LookupHost(t.Context(), "www.example.internal."); err != nil || !slices.Equal(addrs, []string{"10.0.0.9"}) {
			t.Errorf("over %s: %v, %v", network, addrs, err)
		}
	}
}

func TestSimRefuses(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "sim.yaml")
	if err := os.WriteFile(bad, []byte("vSwitches: [{id: a, cidr: 1.2.3.0/24}]\nseeed: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		`seeed: "1": no such key: did you mean seed?`: {"--config", bad},
		`none.yaml`:                       {"--config", "none.yaml"},
		`--output "x": use lines or json`: {"-o", "x"},
		`--listen: `:                      {"--listen", "nowhere:x"},
		`--dns: `:                         {"--listen", "127.0.0.1:0", "--dns", "nowhere"},
	} {
		cmd := newRoot()
		cmd.SetArgs(append([]string{"sim"}, args...))
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		if _, usage := err.(usageError); !usage || !strings.Contains(err.Error(), want) { //nolint:errorlint // what main looks for
			t.Errorf("%v gives %v, want %s", args, err, want)
		}
	}
}
