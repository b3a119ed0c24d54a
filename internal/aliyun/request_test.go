package aliyun_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A script answers each action with a fixed body and keeps what was asked, without the common parameters.
type script struct {
	answers map[string]string // by action; a list of answers is separated by newlines, of which the last one stays

	mu    sync.Mutex // guards the fields below
	asked []string
	turn  map[string]int
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	action := r.Form.Get("Action")
	for _, common := range []string{
		"Action", "Version", "Format", "AccessKeyId", "RegionId", "Timestamp", "SignatureMethod", "SignatureVersion",
		"SignatureType", "SignatureNonce", "Signature",
	} {
		r.Form.Del(common)
	}
	text, _ := url.QueryUnescape(r.Form.Encode())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn == nil {
		s.turn = map[string]int{}
	}
	s.asked = append(s.asked, action+" "+text)
	answers := strings.Split(s.answers[action], "\n")
	body := answers[min(s.turn[action], len(answers)-1)]
	s.turn[action]++
	if strings.HasPrefix(body, `{"Code"`) {
		w.WriteHeader(http.StatusForbidden)
	}
	_, _ = w.Write([]byte(body))
}

func (s *script) want(t *testing.T, asked ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(asked, s.asked); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	s.asked = nil
}

func scripted(t *testing.T, answers map[string]string) (*script, *aliyun.Client) {
	t.Helper()
	s := &script{answers: answers}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, clientOf(t, server.URL, testKeys)
}

// netips compares addresses and prefixes as values.
func netips() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}) }

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

const wholeENI = `{"NetworkInterfaceId":"eni-1","MacAddress":"00:16:3E:00:00:01","PrivateIpAddress":"10.0.0.1",` +
	`"PrivateIpSets":{"PrivateIpSet":[{"PrivateIpAddress":"10.0.0.2"},{"PrivateIpAddress":"10.0.0.1","Primary":true}]},` +
	`"Ipv6Sets":{"Ipv6Set":[{"Ipv6Address":"2001:db8:0:0:0:0:0:1"},{"Ipv6Address":"2001:db8::2"}]},` +
	`"Ipv4PrefixSets":{"Ipv4PrefixSet":[{"Ipv4Prefix":"10.0.0.16/28"}]},"QueueNumber":"4","DeleteOnRelease":true}`

func TestENIOfBothFamilies(t *testing.T) {
	t.Parallel()
	s, client := scripted(t, map[string]string{"CreateNetworkInterface": wholeENI})
	got, err := client.CreateENI(t.Context(), aliyun.CreateENI{
		VSwitchID: "vsw-1", SecurityGroupIDs: []string{"sg-1", "sg-2"}, SecondaryIPs: 1, IPv6s: 2, QueueNumber: 4,
		DeleteOnRelease: true, ResourceGroupID: "rg-1", ClientToken: "once",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.want(t, "CreateNetworkInterface ClientToken=once&DeleteOnRelease=true&Ipv6AddressCount=2&QueueNumber=4&"+
		"ResourceGroupId=rg-1&SecondaryPrivateIpAddressCount=1&SecurityGroupIds.1=sg-1&SecurityGroupIds.2=sg-2&VSwitchId=vsw-1")
	want := aliyun.ENI{
		ID: "eni-1", MAC: "00:16:3e:00:00:01", PrimaryIP: netip.MustParseAddr("10.0.0.1"),
		PrivateIPs: addrs("10.0.0.1", "10.0.0.2"), IPv6s: addrs("2001:db8::1", "2001:db8::2"),
		IPv4Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}, QueueNumber: 4, DeleteOnRelease: true,
	}
	if diff := cmp.Diff(want, got, netips()); diff != "" {
		t.Errorf("ENI (-want +got):\n%s", diff)
	}
}

func TestAssignByFamily(t *testing.T) {
	t.Parallel()
	s, client := scripted(t, map[string]string{
		"AssignPrivateIpAddresses": `{"AssignedPrivateIpAddressesSet":{"PrivateIpSet":{"PrivateIpAddress":["10.0.0.9"]}}}`,
		"AssignIpv6Addresses":      `{"Ipv6Sets":{"Ipv6Address":["2001:db8::9","2001:db8::a"]}}`,
	})
	four, err := client.AssignIPs(t.Context(), aliyun.Assign{ENIID: "eni-1", Family: aliyun.IPv4, Count: 1, ClientToken: "a"})
	if err != nil || !slices.Equal(four, addrs("10.0.0.9")) {
		t.Errorf("IPv4: %v, %v", four, err)
	}
	six, err := client.AssignIPs(t.Context(), aliyun.Assign{ENIID: "eni-1", Family: aliyun.IPv6, Count: 2, ClientToken: "b"})
	if err != nil || !slices.Equal(six, addrs("2001:db8::9", "2001:db8::a")) {
		t.Errorf("IPv6: %v, %v", six, err)
	}
	s.want(t,
		"AssignPrivateIpAddresses ClientToken=a&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1",
		"AssignIpv6Addresses ClientToken=b&Ipv6AddressCount=2&NetworkInterfaceId=eni-1")
	if _, err := client.AssignIPs(t.Context(), aliyun.Assign{ENIID: "eni-1", Count: 1}); err == nil {
		t.Error("an assignment without a family was accepted")
	}
	s.want(t)
}

// Each family has an action of its own and a limit of its own: 10 IPv6 addresses, 32 of IPv4.
func TestUnassignSplitsByFamily(t *testing.T) {
	t.Parallel()
	const gone = `{"Code":"InvalidIp.IpUnassigned","Message":"gone"}`
	s, client := scripted(t, map[string]string{
		"UnassignPrivateIpAddresses": `{}`,
		"UnassignIpv6Addresses":      gone + "\n{}\n" + gone + "\n{}",
		"DescribeNetworkInterfaces":  `{"NetworkInterfaceSets":{"NetworkInterfaceSet":[]}}`,
	})
	// One of the two IPv6 addresses is gone: the other one must still go, whatever a list says that may be old.
	if err := client.UnassignIPs(t.Context(), "eni-1", addrs("2001:db8::2", "10.0.0.2", "2001:db8::77")); err != nil {
		t.Fatal(err)
	}
	s.want(t,
		"UnassignPrivateIpAddresses NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.0.2",
		"UnassignIpv6Addresses Ipv6Address.1=2001:db8::2&Ipv6Address.2=2001:db8::77&NetworkInterfaceId=eni-1",
		"UnassignIpv6Addresses Ipv6Address.1=2001:db8::2&NetworkInterfaceId=eni-1",
		"UnassignIpv6Addresses Ipv6Address.1=2001:db8::77&NetworkInterfaceId=eni-1")

	var many []netip.Addr
	for a := netip.MustParseAddr("2001:db8::100"); len(many) < 11; a = a.Next() {
		many = append(many, a)
	}
	if err := client.UnassignIPs(t.Context(), "eni-1", many); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) != 2 || !strings.HasSuffix(s.asked[1], "Ipv6Address.1=2001:db8::10a&NetworkInterfaceId=eni-1") {
		t.Errorf("requests for 11 addresses: %q", s.asked)
	}
}

func TestModifyENI(t *testing.T) {
	t.Parallel()
	s, client := scripted(t, map[string]string{"ModifyNetworkInterfaceAttribute": `{}`})
	no := false
	for _, m := range []aliyun.ModifyENI{
		{}, {SecurityGroupIDs: []string{"sg-1", "sg-2"}}, {QueueNumber: 2, DeleteOnRelease: &no},
	} {
		if err := client.ModifyENI(t.Context(), "eni-1", m); err != nil {
			t.Error(err)
		}
	}
	s.want(t,
		"ModifyNetworkInterfaceAttribute NetworkInterfaceId=eni-1&SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2",
		"ModifyNetworkInterfaceAttribute DeleteOnRelease=false&NetworkInterfaceId=eni-1&QueueNumber=2")
}

func TestDescribeSecurityGroups(t *testing.T) {
	t.Parallel()
	s, client := scripted(t, map[string]string{
		"DescribeSecurityGroups": `{"NextToken":"more","SecurityGroups":{"SecurityGroup":[{"SecurityGroupId":"sg-1","VpcId":"vpc-1","SecurityGroupType":"normal"}]}}` + "\n" +
			`{"SecurityGroups":{"SecurityGroup":[{"SecurityGroupId":"sg-2","VpcId":"vpc-1","SecurityGroupType":"enterprise","ServiceManaged":true}]}}`,
	})
	got, err := client.DescribeSecurityGroups(t.Context(), "vpc-1", []string{"sg-1", "sg-2"})
	want := []aliyun.SecurityGroup{
		{ID: "sg-1", VPCID: "vpc-1", Type: "normal"},
		{ID: "sg-2", VPCID: "vpc-1", Type: "enterprise", ServiceManaged: true},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("security groups = %+v, %v", got, err)
	}
	s.want(t,
		`DescribeSecurityGroups MaxResults=100&SecurityGroupIds=["sg-1","sg-2"]&VpcId=vpc-1`,
		`DescribeSecurityGroups MaxResults=100&NextToken=more&SecurityGroupIds=["sg-1","sg-2"]&VpcId=vpc-1`)
	if _, err := client.DescribeSecurityGroups(t.Context(), "", nil); err == nil {
		t.Error("a request for every group of the account was accepted")
	}
}

func TestLimitsOfAType(t *testing.T) {
	t.Parallel()
	answer, err := json.Marshal(map[string]any{"InstanceTypes": map[string]any{"InstanceType": []any{map[string]any{
		"InstanceTypeId": "t", "EniQuantity": 4, "EniTotalQuantity": 12, "EniPrivateIpAddressQuantity": 15,
		"EniIpv6AddressQuantity": "15", "SecondaryEniQueueNumber": 2, "MaximumQueueNumberPerEni": 8,
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	_, client := scripted(t, map[string]string{"DescribeInstanceTypes": string(answer)})
	got, err := client.DescribeInstanceType(t.Context(), "t")
	want := aliyun.InstanceType{
		ID: "t", ENIs: 4, TotalENIs: 12, AddressesPerENI: 15, IPv6PerENI: 15, QueuesPerENI: 2, MaxQueuesPerENI: 8,
	}
	if err != nil || got != want {
		t.Errorf("instance type = %+v, %v; want %+v", got, err, want)
	}
	_, client = scripted(t, map[string]string{"DescribeInstanceTypes": `{"InstanceTypes":{"InstanceType":[{"InstanceTypeId":"t","EniQuantity":4}]}}`})
	if got, err := client.DescribeInstanceType(t.Context(), "t"); err == nil {
		t.Errorf("a type without its limits was accepted: %+v", got)
	}
}

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ fields, want string }{
		"none":   {`"PublicIpAddress":{"IpAddress":[]},"EipAddress":{"IpAddress":""}`, ""},
		"public": {`"PublicIpAddress":{"IpAddress":["192.0.2.1"]},"EipAddress":{"IpAddress":""}`, "192.0.2.1"},
		"EIP":    {`"PublicIpAddress":{"IpAddress":[]},"EipAddress":{"IpAddress":"192.0.2.2"}`, "192.0.2.2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, client := scripted(t, map[string]string{"DescribeInstances": `{"Instances":{"Instance":[{"InstanceId":"i-1",` + tc.fields + `}]}}`})
			in, err := client.DescribeInstance(t.Context(), "i-1")
			if got := in.PublicIP; err != nil || got.IsValid() != (tc.want != "") || got.IsValid() && got.String() != tc.want {
				t.Errorf("public address = %v, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestVSwitchOfBothFamilies(t *testing.T) {
	t.Parallel()
	_, client := scripted(t, map[string]string{"DescribeVSwitches": `{"VSwitches":{"VSwitch":[{"VSwitchId":"vsw-1","CidrBlock":"10.0.0.0/24",` +
		`"Ipv6CidrBlock":"2001:db8:1::/64","AvailableIpAddressCount":7,"RouteTable":{"RouteTableId":"vtb-1"}}]}}`})
	got, err := client.DescribeVSwitches(t.Context(), []string{"vsw-1"})
	want := aliyun.VSwitch{
		ID: "vsw-1", CIDR: netip.MustParsePrefix("10.0.0.0/24"), IPv6CIDR: netip.MustParsePrefix("2001:db8:1::/64"),
		RouteTableID: "vtb-1", AvailableIPs: 7,
	}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("vSwitches = %+v, %v; want %+v", got, err, want)
	}
}
