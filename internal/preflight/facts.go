package preflight

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Mode is how pods reach what is outside the VPC.
type Mode string

// The modes, as the configuration spells them.
const (
	ModeVPC      Mode = "vpc"       // through the VPC's NAT gateway, each with its own address
	ModeNodeSNAT Mode = "node-snat" // with the node's primary address
	ModeNone     Mode = "none"      // not at all
)

// A Query is what the configuration and the metadata service say.
type Query struct {
	// Instance is the node as the metadata service describes it.
	Instance aliyun.Instance
	// RegionID is the configured region; empty: not compared.
	RegionID string
	// VSwitches are the configured ones for pods; none: the instance's own.
	VSwitches []string
	// SecurityGroups are the configured ones for pod ENIs; none: the instance's.
	SecurityGroups []string
	ServiceCIDRs   []netip.Prefix
	// PodCIDRs are what the cluster takes for the range of its pods; none: not compared.
	PodCIDRs []netip.Prefix
	// NodeDNS are the addresses of the node's DNS listener.
	NodeDNS   []netip.Addr
	DualStack bool
	// MaxENIs bounds the pods' ENIs; zero: as many as the instance type allows.
	MaxENIs int
	Egress  Mode // empty: ModeVPC
}

// A Known is a fact, or the reason why it is none. The zero Known was not asked for.
type Known[T any] struct {
	Value  T
	OK     bool
	Reason string // why it is not known, if it was asked for
}

// Facts are everything that Plan and Egress judge by.
type Facts struct {
	Query Query
	// Instance holds at least what the Query says of it.
	Instance Known[aliyun.Instance]
	Type     Known[aliyun.InstanceType]
	VPC      Known[aliyun.VPC]
	// VSwitches are those for pods that exist.
	VSwitches Known[[]aliyun.VSwitch]
	// NodeVSwitch is asked for only if pods leave with the node's address.
	NodeVSwitch Known[[]aliyun.VSwitch]
	Groups      Known[[]aliyun.SecurityGroup]
	// Held is how many IPv4 addresses the instance's secondary ENIs have already.
	Held   Known[int]
	Routes Known[[]aliyun.RouteTable]
	SNAT   Known[[]aliyun.SNATEntry]
}

// A Cloud answers Gather. *aliyun.Client does.
type Cloud interface {
	DescribeInstance(ctx context.Context, id string) (aliyun.Instance, error)
	DescribeInstanceType(ctx context.Context, id string) (aliyun.InstanceType, error)
	DescribeVPC(ctx context.Context, id string) (aliyun.VPC, error)
	DescribeVSwitches(ctx context.Context, ids []string) ([]aliyun.VSwitch, error)
	DescribeSecurityGroups(ctx context.Context, vpcID string, ids []string) ([]aliyun.SecurityGroup, error)
	DescribeENIs(ctx context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error)
	DescribeRouteTables(ctx context.Context, vpcID string) ([]aliyun.RouteTable, error)
	DescribeSNATEntries(ctx context.Context, vpcID string) ([]aliyun.SNATEntry, error)
}

// Gather asks the cloud for the facts. A question it refuses or has no answer to leaves one fact unknown; only a cloud
// that does not answer, or too many calls, is an error.
func Gather(ctx context.Context, cloud Cloud, q Query) (Facts, error) {
	f := Facts{Query: q}
	err := ask(&f.Instance, func() (aliyun.Instance, error) { return cloud.DescribeInstance(ctx, q.Instance.ID) })
	if !f.Instance.OK {
		f.Instance.Value = q.Instance
	}
	in := f.Instance.Value
	questions := []func() error{
		func() error {
			return ask(&f.Type, func() (aliyun.InstanceType, error) { return cloud.DescribeInstanceType(ctx, in.Type) })
		},
		func() error {
			return ask(&f.VPC, func() (aliyun.VPC, error) { return cloud.DescribeVPC(ctx, in.VPCID) })
		},
		func() error {
			return ask(&f.VSwitches, func() ([]aliyun.VSwitch, error) { return cloud.DescribeVSwitches(ctx, f.wantedVSwitches()) })
		},
		func() error { return f.askGroups(ctx, cloud) },
		func() error { return ask(&f.Held, func() (int, error) { return held(ctx, cloud, in.ID) }) },
		func() error { return f.askEgress(ctx, cloud) },
	}
	for _, question := range questions {
		if err != nil {
			break
		}
		err = question()
	}
	if err != nil {
		return Facts{}, fmt.Errorf("gather what the cloud says of the network: %w", err)
	}
	return f, nil
}

// ask stores the answer. It returns an error only when asking further is no use.
func ask[T any](into *Known[T], question func() (T, error)) error {
	v, err := question()
	switch {
	case err == nil:
		*into = Known[T]{Value: v, OK: true}
	case isOutage(err):
		return err
	default:
		*into = Known[T]{Reason: reasonOf(err)}
	}
	return nil
}

func isOutage(err error) bool {
	for _, class := range []error{context.Canceled, context.DeadlineExceeded, aliyun.ErrUnavailable, aliyun.ErrThrottled} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// reasonOf leaves out what differs between two answers that mean the same, such as the ID of the request.
func reasonOf(err error) string {
	if api, ok := errors.AsType[*aliyun.APIError](err); ok && api.Code != "" {
		return api.Action + ": " + api.Code
	}
	return err.Error()
}

func (f *Facts) wantedVSwitches() []string {
	if len(f.Query.VSwitches) > 0 {
		return f.Query.VSwitches
	}
	return []string{f.Instance.Value.VSwitchID}
}

// wantedGroups are the security groups of pod ENIs, and whether they are known.
func (f *Facts) wantedGroups() ([]string, bool) {
	if len(f.Query.SecurityGroups) > 0 {
		return f.Query.SecurityGroups, true
	}
	return f.Instance.Value.SecurityGroupIDs, f.Instance.OK
}

// askGroups asks for groups of any VPC: one that is in another is what Plan looks for.
func (f *Facts) askGroups(ctx context.Context, cloud Cloud) error {
	ids, known := f.wantedGroups()
	if !known {
		f.Groups.Reason = f.Instance.Reason
		return nil
	}
	if len(ids) == 0 {
		f.Groups.OK = true
		return nil
	}
	return ask(&f.Groups, func() ([]aliyun.SecurityGroup, error) { return cloud.DescribeSecurityGroups(ctx, "", ids) })
}

func (f *Facts) askEgress(ctx context.Context, cloud Cloud) error {
	vpc := f.Instance.Value.VPCID
	if f.Query.Egress == ModeNone {
		return nil
	}
	if f.Query.Egress == ModeNodeSNAT {
		own := []string{f.Instance.Value.VSwitchID}
		if err := ask(&f.NodeVSwitch, func() ([]aliyun.VSwitch, error) { return cloud.DescribeVSwitches(ctx, own) }); err != nil {
			return err
		}
	}
	if err := ask(&f.Routes, func() ([]aliyun.RouteTable, error) { return cloud.DescribeRouteTables(ctx, vpc) }); err != nil {
		return err
	}
	return ask(&f.SNAT, func() ([]aliyun.SNATEntry, error) { return cloud.DescribeSNATEntries(ctx, vpc) })
}

func held(ctx context.Context, cloud Cloud, instanceID string) (n int, err error) {
	enis, err := cloud.DescribeENIs(ctx, aliyun.ENIFilter{InstanceID: instanceID})
	for _, e := range enis {
		if e.Type != aliyun.TypePrimary {
			n += len(e.PrivateIPs)
		}
	}
	return n, err
}

// vSwitches are those for pods, each once, in the order of their IDs.
func (f *Facts) vSwitches() []aliyun.VSwitch {
	byID := map[string]aliyun.VSwitch{}
	for _, v := range f.VSwitches.Value {
		byID[v.ID] = v
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b aliyun.VSwitch) int { return strings.Compare(a.ID, b.ID) })
}

// usable are the vSwitches the node can have ENIs in, which are those of its zone. The list is often one for all zones.
func (f *Facts) usable() []aliyun.VSwitch {
	return slices.DeleteFunc(f.vSwitches(), func(v aliyun.VSwitch) bool { return v.ZoneID != f.Instance.Value.ZoneID })
}
