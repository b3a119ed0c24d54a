package aliyun_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloudOf starts a simulated cloud with one instance, i-1, of the type ecs.sim.small: 2 ENIs of 4 addresses.
func cloudOf(t *testing.T, change func(*sim.Config)) (*sim.Cloud, string) {
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
	t.Cleanup(func() {
		server.Close()
		_ = cloud.Close()
	})
	spec := sim.InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: sim.DefaultNodeVSwitch}
	if _, _, err := cloud.RunInstance(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return cloud, server.URL
}

func clientOf(t *testing.T, url string, creds aliyun.Credentials) *aliyun.Client {
	t.Helper()
	if creds == nil {
		creds = aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret}
	}
	client, err := aliyun.NewClient(aliyun.Config{RegionID: sim.DefaultRegion, Endpoint: url, Credentials: creds, RateLimits: unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	client.Hasten()
	return client
}

// unlimited lets a test call as often as it likes.
func unlimited() map[string]int {
	rates := map[string]int{}
	for _, action := range []string{
		"CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface",
		"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "DescribeNetworkInterfaces", "DescribeInstances",
	} {
		rates[action] = 1e6
	}
	return rates
}

func v4(eniID string, n int, token string) aliyun.Assign {
	return aliyun.Assign{ENIID: eniID, Family: aliyun.IPv4, Count: n, ClientToken: token}
}

func setup(t *testing.T) (*sim.Cloud, *aliyun.Client) {
	t.Helper()
	cloud, url := cloudOf(t, nil)
	return cloud, clientOf(t, url, nil)
}

func podENI() aliyun.CreateENI {
	return aliyun.CreateENI{VSwitchID: sim.DefaultPodVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}}
}

func mustCreate(t *testing.T, client *aliyun.Client, c aliyun.CreateENI) aliyun.ENI {
	t.Helper()
	eni, err := client.CreateENI(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return eni
}

func mustDescribe(t *testing.T, client *aliyun.Client, id string) aliyun.ENI {
	t.Helper()
	enis, err := client.DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: []string{id}})
	if err != nil || len(enis) != 1 {
		t.Fatalf("DescribeENIs(%s) = %d ENIs, %v", id, len(enis), err)
	}
	return enis[0]
}

func TestENILifecycle(t *testing.T) {
	t.Parallel()
	_, client := setup(t)
	ctx := t.Context()
	req := podENI()
	req.SecondaryIPs = 2
	req.Tags = map[string]string{"nearpath/op": "a b+c*~/%", "empty": ""}
	req.Description = "für einen Knoten"
	req.ClientToken = "token-1"

	created := mustCreate(t, client, req)
	want := aliyun.ENI{
		ID: created.ID, MAC: created.MAC, Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable,
		VPCID: sim.DefaultVPC, VSwitchID: sim.DefaultPodVSwitch, ZoneID: sim.DefaultZone,
		PrimaryIP:        netip.MustParseAddr("10.0.64.1"),
		PrivateIPs:       []netip.Addr{netip.MustParseAddr("10.0.64.1"), netip.MustParseAddr("10.0.64.2"), netip.MustParseAddr("10.0.64.3")},
		SecurityGroupIDs: []string{sim.DefaultSecurityGroup},
		Tags:             map[string]string{"nearpath/op": "a b+c*~/%", "empty": ""}, Created: created.Created,
	}
	if diff := cmp.Diff(want, created, netips()); diff != "" {
		t.Errorf("created ENI (-want +got):\n%s", diff)
	}
	if again := mustCreate(t, client, req); again.ID != created.ID {
		t.Errorf("the same client token gave %s and %s", created.ID, again.ID)
	}

	if err := client.AttachENI(ctx, created.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	if e := mustDescribe(t, client, created.ID); e.Status != aliyun.StatusInUse || e.InstanceID != "i-1" {
		t.Errorf("after attach: %s on %q", e.Status, e.InstanceID)
	}
	added, err := client.AssignIPs(ctx, v4(created.ID, 1, "token-2"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.AssignIPs(ctx, v4(created.ID, 1, "token-2"))
	if err != nil || !slices.Equal(added, again) {
		t.Errorf("the same client token gave %v and %v, %v", added, again, err)
	}
	if e := mustDescribe(t, client, created.ID); len(e.PrivateIPs) != 4 || e.PrivateIPs[3] != added[0] {
		t.Errorf("after assign: %v, want %v last", e.PrivateIPs, added)
	}
	if err := client.UnassignIPs(ctx, created.ID, added); err != nil {
		t.Fatal(err)
	}
	if e := mustDescribe(t, client, created.ID); len(e.PrivateIPs) != 3 {
		t.Errorf("after unassign: %v", e.PrivateIPs)
	}
	if err := client.DetachENI(ctx, created.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	if e := mustDescribe(t, client, created.ID); e.Status != aliyun.StatusAvailable || e.InstanceID != "" {
		t.Errorf("after detach: %s on %q", e.Status, e.InstanceID)
	}
	if err := client.DeleteENI(ctx, created.ID); err != nil {
		t.Fatal(err)
	}
	enis, err := client.DescribeENIs(ctx, aliyun.ENIFilter{IDs: []string{created.ID}})
	if err != nil || len(enis) != 0 {
		t.Errorf("after delete: %d ENIs, %v; want none without an error", len(enis), err)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	_, client := setup(t)
	in, err := client.DescribeInstance(t.Context(), "i-1")
	if err != nil {
		t.Fatal(err)
	}
	wantInstance := aliyun.Instance{
		ID: "i-1", Type: "ecs.sim.small", RegionID: sim.DefaultRegion, ZoneID: sim.DefaultZone, VPCID: sim.DefaultVPC,
		VSwitchID: sim.DefaultNodeVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup},
	}
	if diff := cmp.Diff(wantInstance, in, netips()); diff != "" {
		t.Errorf("instance (-want +got):\n%s", diff)
	}
	typ, err := client.DescribeInstanceType(t.Context(), "ecs.sim.small")
	if want := (aliyun.InstanceType{ID: "ecs.sim.small", ENIs: 2, AddressesPerENI: 4}); err != nil ||
		typ.ID != want.ID || typ.ENIs != want.ENIs || typ.AddressesPerENI != want.AddressesPerENI {
		t.Errorf("instance type = %+v, %v; want %+v", typ, err, want)
	}
	vsw, err := client.DescribeVSwitches(t.Context(), []string{sim.DefaultPodVSwitch, "vsw-none", sim.DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	wantVSwitches := []aliyun.VSwitch{
		{
			ID: sim.DefaultPodVSwitch, VPCID: sim.DefaultVPC, ZoneID: sim.DefaultZone,
			CIDR: netip.MustParsePrefix("10.0.64.0/20"), AvailableIPs: 4092,
		},
		{
			ID: sim.DefaultNodeVSwitch, VPCID: sim.DefaultVPC, ZoneID: sim.DefaultZone,
			CIDR: netip.MustParsePrefix("10.0.0.0/24"), AvailableIPs: 251, // of 252, less the primary ENI's
		},
	}
	if !slices.Equal(vsw, wantVSwitches) {
		t.Errorf("vSwitches = %+v, want %+v", vsw, wantVSwitches)
	}
}

func TestDescribeENIsReadsEveryPage(t *testing.T) {
	t.Parallel()
	_, client := setup(t)
	const n = 520
	want := map[string]bool{}
	var ids []string
	for range n {
		req := podENI()
		req.Tags = map[string]string{"batch": "1"}
		e := mustCreate(t, client, req)
		want[e.ID] = true
		ids = append(ids, e.ID)
	}
	byTag, err := client.DescribeENIs(t.Context(), aliyun.ENIFilter{Tags: map[string]string{"batch": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	byID, err := client.DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: append(ids, "eni-none")})
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]aliyun.ENI{"by tag": byTag, "by ID": byID} {
		seen := map[string]bool{}
		for _, e := range got {
			seen[e.ID] = true
		}
		if len(got) != n || !cmp.Equal(want, seen) {
			t.Errorf("%s: %d ENIs, %d distinct, want %d", name, len(got), len(seen), n)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	t.Parallel()
	cloud, url := cloudOf(t, func(c *sim.Config) {
		c.VSwitches = append(c.VSwitches, sim.VSwitch{ID: "vsw-tiny", CIDR: netip.MustParsePrefix("10.0.200.0/29")})
	})
	client := clientOf(t, url, nil)
	free := mustCreate(t, client, podENI())
	spare := mustCreate(t, client, podENI())
	primary := cloud.ENIs()[0]
	if err := client.AttachENI(t.Context(), free.ID, "i-1"); err != nil {
		t.Fatal(err)
	}
	in := func(vsw string, groups ...string) aliyun.CreateENI {
		return aliyun.CreateENI{VSwitchID: vsw, SecurityGroupIDs: groups}
	}
	create := func(c aliyun.CreateENI) func(context.Context) error {
		return func(ctx context.Context) error { _, err := client.CreateENI(ctx, c); return err }
	}
	full := in("vsw-tiny", sim.DefaultSecurityGroup)
	full.SecondaryIPs = 4 // with the primary one 5, of 4
	cases := []struct {
		name   string
		call   func(context.Context) error
		class  error
		code   string
		status int
	}{
		{"unknown vSwitch", create(in("vsw-none", sim.DefaultSecurityGroup)), aliyun.ErrNotFound, "InvalidVSwitchId.NotFound", 404},
		{"unknown security group", create(in(sim.DefaultPodVSwitch, "sg-none")), aliyun.ErrNotFound, "InvalidSecurityGroupId.NotFound", 404},
		{"vSwitch too full", create(full), aliyun.ErrVSwitchFull, "InvalidVSwitchId.IpNotEnough", 403},
		{"no vSwitch", create(in("", sim.DefaultSecurityGroup)), nil, "MissingParameter.VSwitchId", 400},
		{"no security group", create(in(sim.DefaultPodVSwitch)), nil, "MissingParameter.SecurityGroupId", 400},
		{"attach an unknown ENI", func(ctx context.Context) error { return client.AttachENI(ctx, "eni-none", "i-1") }, aliyun.ErrNotFound, "InvalidEniId.NotFound", 404},
		{"attach to an unknown instance", func(ctx context.Context) error { return client.AttachENI(ctx, spare.ID, "i-none") }, aliyun.ErrNotFound, "InvalidEcsId.NotFound", 404},
		{"attach twice", func(ctx context.Context) error { return client.AttachENI(ctx, free.ID, "i-1") }, aliyun.ErrConflict, "InvalidOperation.InvalidEniState", 400},
		{"attach one too many", func(ctx context.Context) error { return client.AttachENI(ctx, spare.ID, "i-1") }, aliyun.ErrQuota, "EniPerInstanceLimitExceeded", 403},
		{"detach what is not attached", func(ctx context.Context) error { return client.DetachENI(ctx, spare.ID, "i-1") }, aliyun.ErrConflict, "InvalidOperation.InvalidEniState", 400},
		{"detach the primary ENI", func(ctx context.Context) error { return client.DetachENI(ctx, primary.ID, "i-1") }, nil, "InvalidOperation.DetachPrimaryEniNotAllowed", 400},
		{"delete what is attached", func(ctx context.Context) error { return client.DeleteENI(ctx, free.ID) }, aliyun.ErrConflict, "InvalidOperation.InvalidEniState", 400},
		{"assign too many", func(ctx context.Context) error {
			_, err := client.AssignIPs(ctx, v4(free.ID, 4, ""))
			return err
		}, aliyun.ErrQuota, "InvalidOperation.Ipv4CountExceeded", 403},
		{"assign to an unknown ENI", func(ctx context.Context) error {
			_, err := client.AssignIPs(ctx, v4("eni-none", 1, ""))
			return err
		}, aliyun.ErrNotFound, "InvalidEniId.NotFound", 404},
		{"unassign the primary address", func(ctx context.Context) error {
			return client.UnassignIPs(ctx, free.ID, []netip.Addr{free.PrimaryIP})
		}, nil, "InvalidIp.Address", 403},
	}
	classes := []error{
		aliyun.ErrThrottled, aliyun.ErrNotFound, aliyun.ErrVSwitchFull, aliyun.ErrQuota, aliyun.ErrForbidden,
		aliyun.ErrConflict, aliyun.ErrUnavailable,
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.call(t.Context())
			api, ok := errors.AsType[*aliyun.APIError](err)
			if !ok {
				t.Fatalf("error %v is no APIError", err)
			}
			if api.Code != tc.code || api.HTTPStatus != tc.status || api.RequestID == "" || api.Message == "" {
				t.Errorf("answer %+v, want %s with status %d", api, tc.code, tc.status)
			}
			for _, c := range classes {
				if errors.Is(err, c) != errors.Is(tc.class, c) {
					t.Errorf("errors.Is(%v, %v) = %v", err, c, errors.Is(err, c))
				}
			}
		})
	}
}

func TestMissingObjectsCountAsDone(t *testing.T) {
	t.Parallel()
	_, client := setup(t)
	ctx := t.Context()
	eni := mustCreate(t, client, podENI())
	added, err := client.AssignIPs(ctx, v4(eni.ID, 3, ""))
	if err != nil {
		t.Fatal(err)
	}
	// The second of the batch is gone: the API refuses the whole batch, and the others must still go.
	if err := client.UnassignIPs(ctx, eni.ID, added[1:2]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := client.UnassignIPs(ctx, eni.ID, added); err != nil {
			t.Error(err)
		}
	}
	if e := mustDescribe(t, client, eni.ID); len(e.PrivateIPs) != 1 {
		t.Errorf("left on the ENI: %v", e.PrivateIPs)
	}
	for name, err := range map[string]error{
		"delete":   client.DeleteENI(ctx, "eni-none"),
		"detach":   client.DetachENI(ctx, "eni-none", "i-1"),
		"unassign": client.UnassignIPs(ctx, "eni-none", added),
		"instance": client.DetachENI(ctx, eni.ID, "i-none"),
	} {
		if err != nil {
			t.Errorf("%s of what does not exist: %v", name, err)
		}
	}
	if _, err := client.DescribeInstance(ctx, "i-none"); !errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("instance that does not exist: %v", err)
	}
	if _, err := client.DescribeInstanceType(ctx, "ecs.none"); !errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("instance type that does not exist: %v", err)
	}
	if _, err := client.DescribeENIs(ctx, aliyun.ENIFilter{}); err == nil {
		t.Error("an empty filter was accepted")
	}
}

func TestCredentialsAreChecked(t *testing.T) {
	t.Parallel()
	_, url := cloudOf(t, nil)
	const secret = "not-the-secret"
	cases := []struct {
		name  string
		creds aliyun.StaticCredentials
		code  string
	}{
		{"wrong secret", aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: secret}, "SignatureDoesNotMatch"},
		{"unknown key", aliyun.StaticCredentials{AccessKeyID: "nobody", AccessKeySecret: secret}, "InvalidAccessKeyId.NotFound"},
		{"no key", aliyun.StaticCredentials{}, ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := clientOf(t, url, tc.creds).CreateENI(t.Context(), podENI())
			if !errors.Is(err, aliyun.ErrForbidden) {
				t.Fatalf("error %v, want ErrForbidden", err)
			}
			if api, ok := errors.AsType[*aliyun.APIError](err); tc.code != "" && (!ok || api.Code != tc.code) {
				t.Errorf("error %v, want the code %s", err, tc.code)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v %s", err, tc.creds, tc.creds, tc.creds), secret) {
				t.Error("a secret is printed")
			}
		})
	}
}
