package aliyun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// Limits of the ECS API.
const (
	maxDescribedENIs = 100 // IDs per DescribeNetworkInterfaces
	eniPageSize      = 500
	maxENIPages      = 1000
	maxUnassigned    = 32 // addresses per UnassignPrivateIpAddresses
	maxClientToken   = 64
)

// Config is what NewECS needs.
type Config struct {
	RegionID string
	// Endpoint of the ECS API: "host", "host:port", or either with http:// or https:// before it. Without a scheme it is
	// HTTPS, or HTTP on loopback. Empty means the vendor's public endpoint of the region.
	Endpoint string
	// VPCEndpoint of the VPC API, in the same forms. Empty means Endpoint if that is set, else the vendor's.
	VPCEndpoint string
	Credentials Credentials
	Logger      *slog.Logger // nil: discard
}

// An ECS is a client of the ECS API and of the one action of the VPC API that goes with it. It is safe for concurrent
// use. Calls are repeated within bounds when the cloud throttles or does not answer; a call that changes something
// without a client token is repeated only when the first try cannot have had an effect.
type ECS struct {
	caller *caller
	ecs    product
	vpc    product
}

// NewECS returns a client. It makes no call.
func NewECS(cfg Config) (*ECS, error) {
	c, err := newCaller(cfg.RegionID, cfg.Credentials, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("configure the ECS client: %w", err)
	}
	e := &ECS{
		caller: c,
		ecs:    product{name: "Ecs", version: "2014-05-26"},
		vpc:    product{name: "Vpc", version: "2016-04-28"},
	}
	ecsEndpoint, vpcEndpoint := cfg.Endpoint, cfg.VPCEndpoint
	if vpcEndpoint == "" {
		vpcEndpoint = ecsEndpoint
	}
	if e.ecs.scheme, e.ecs.host, err = endpointOf("ecs", cfg.RegionID, ecsEndpoint); err != nil {
		return nil, fmt.Errorf("configure the ECS client: %w", err)
	}
	if e.vpc.scheme, e.vpc.host, err = endpointOf("vpc", cfg.RegionID, vpcEndpoint); err != nil {
		return nil, fmt.Errorf("configure the VPC client: %w", err)
	}
	return e, nil
}

func endpointOf(service, region, endpoint string) (scheme, host string, err error) {
	if endpoint == "" {
		endpoint = service + "." + region + ".aliyuncs.com"
	}
	return parseEndpoint(endpoint)
}

// DescribeENIs returns the ENIs that match every set field of the filter, over all pages, in the order of the answer.
// IDs that do not exist are left out without an error. An empty filter is refused: it would list the whole account.
func (e *ECS) DescribeENIs(ctx context.Context, f ENIFilter) ([]ENI, error) {
	if len(f.IDs) == 0 && f.InstanceID == "" && len(f.Tags) == 0 {
		return nil, errors.New("describe ENIs: filter is empty")
	}
	if len(f.IDs) == 0 {
		return e.describeENIs(ctx, f)
	}
	var all []ENI
	for ids := range slices.Chunk(f.IDs, maxDescribedENIs) {
		part, err := e.describeENIs(ctx, ENIFilter{IDs: ids, InstanceID: f.InstanceID, Tags: f.Tags})
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

func (e *ECS) describeENIs(ctx context.Context, f ENIFilter) ([]ENI, error) {
	var all []ENI
	seen := map[string]bool{} // pages drift while ENIs come and go
	token := ""
	for range maxENIPages {
		p := params{"MaxResults": strconv.Itoa(eniPageSize)}
		p.set("NextToken", token)
		p.set("InstanceId", f.InstanceID)
		p.list("NetworkInterfaceId", f.IDs)
		p.tags(f.Tags)
		var page wireENIPage
		if err := e.read(ctx, "DescribeNetworkInterfaces", p, &page); err != nil {
			return nil, fmt.Errorf("describe ENIs: %w", err)
		}
		for _, w := range page.Sets.Set {
			eni, err := w.eni()
			if err != nil {
				return nil, fmt.Errorf("describe ENIs: %w", err)
			}
			if !seen[eni.ID] {
				seen[eni.ID] = true
				all = append(all, eni)
			}
		}
		if page.NextToken == "" || page.NextToken == token {
			return all, nil
		}
		token = page.NextToken
	}
	return nil, fmt.Errorf("describe ENIs: more than %d pages", maxENIPages)
}

// CreateENI creates a detached ENI. Its state is StatusAvailable once DescribeENIs says so. Errors match ErrVSwitchFull
// and ErrQuota where those are the reason.
func (e *ECS) CreateENI(ctx context.Context, c CreateENI) (ENI, error) {
	if len(c.ClientToken) > maxClientToken {
		return ENI{}, fmt.Errorf("create an ENI: client token has %d characters, want at most %d", len(c.ClientToken), maxClientToken)
	}
	p := params{}
	p.set("VSwitchId", c.VSwitchID)
	p.list("SecurityGroupIds", c.SecurityGroupIDs)
	if c.SecondaryIPs > 0 {
		p.set("SecondaryPrivateIpAddressCount", strconv.Itoa(c.SecondaryIPs))
	}
	p.tags(c.Tags)
	p.set("Description", c.Description)
	p.set("ClientToken", c.ClientToken)
	var w wireENI
	err := e.caller.call(ctx, request{&e.ecs, "CreateNetworkInterface", p, c.ClientToken != ""}, &w)
	if err != nil {
		return ENI{}, fmt.Errorf("create an ENI in vSwitch %s: %w", c.VSwitchID, err)
	}
	eni, err := w.eni()
	if err != nil {
		return ENI{}, fmt.Errorf("create an ENI in vSwitch %s: %w", c.VSwitchID, err)
	}
	return eni, nil
}

// AttachENI starts to attach the ENI; it is done when DescribeENIs shows StatusInUse, and may fall back to
// StatusAvailable. After ErrUnavailable or ErrConflict the state says whether an attachment is under way.
func (e *ECS) AttachENI(ctx context.Context, eniID, instanceID string) error {
	p := params{"NetworkInterfaceId": eniID, "InstanceId": instanceID}
	if err := e.write(ctx, "AttachNetworkInterface", p); err != nil {
		return fmt.Errorf("attach %s to %s: %w", eniID, instanceID, err)
	}
	return nil
}

// DetachENI starts to detach the ENI; it is done when DescribeENIs shows StatusAvailable. An ENI or instance that does
// not exist counts as detached.
func (e *ECS) DetachENI(ctx context.Context, eniID, instanceID string) error {
	p := params{"NetworkInterfaceId": eniID, "InstanceId": instanceID}
	err := e.write(ctx, "DetachNetworkInterface", p)
	if err != nil && !hasCode(err, codeEniNotFound, codeEcsNotFound) {
		return fmt.Errorf("detach %s from %s: %w", eniID, instanceID, err)
	}
	return nil
}

// DeleteENI starts to delete a detached ENI. One that does not exist counts as deleted.
func (e *ECS) DeleteENI(ctx context.Context, eniID string) error {
	p := params{"NetworkInterfaceId": eniID}
	err := e.caller.call(ctx, request{&e.ecs, "DeleteNetworkInterface", p, true}, &struct{}{})
	if err != nil && !hasCode(err, codeEniNotFound) {
		return fmt.Errorf("delete %s: %w", eniID, err)
	}
	return nil
}

// AssignIPs adds n addresses, chosen by the cloud, and returns them. With a client token (at most 64 characters) a
// retry of the same request returns the first result.
func (e *ECS) AssignIPs(ctx context.Context, eniID string, n int, clientToken string) ([]netip.Addr, error) {
	if len(clientToken) > maxClientToken {
		return nil, fmt.Errorf("assign addresses to %s: client token has %d characters, want at most %d", eniID, len(clientToken), maxClientToken)
	}
	p := params{"NetworkInterfaceId": eniID, "SecondaryPrivateIpAddressCount": strconv.Itoa(n)}
	p.set("ClientToken", clientToken)
	var w wireAssigned
	err := e.caller.call(ctx, request{&e.ecs, "AssignPrivateIpAddresses", p, clientToken != ""}, &w)
	if err != nil {
		return nil, fmt.Errorf("assign %d addresses to %s: %w", n, eniID, err)
	}
	addrs, err := w.addrs()
	if err != nil {
		return nil, fmt.Errorf("assign %d addresses to %s: %w", n, eniID, err)
	}
	return addrs, nil
}

// UnassignIPs takes addresses from the ENI. Addresses that are not on it, and an ENI that does not exist, count as
// done.
func (e *ECS) UnassignIPs(ctx context.Context, eniID string, addrs []netip.Addr) error {
	for part := range slices.Chunk(addrs, maxUnassigned) {
		if err := e.unassign(ctx, eniID, part); err != nil {
			return fmt.Errorf("unassign %d addresses from %s: %w", len(part), eniID, err)
		}
	}
	return nil
}

// unassign asks again for what is left when one address of the batch was gone: the API then refuses the whole batch.
func (e *ECS) unassign(ctx context.Context, eniID string, addrs []netip.Addr) error {
	err := e.unassignOnce(ctx, eniID, addrs)
	if !hasCode(err, codeIPUnassigned) || len(addrs) == 1 {
		return err
	}
	enis, err := e.DescribeENIs(ctx, ENIFilter{IDs: []string{eniID}})
	if err != nil || len(enis) == 0 {
		return err
	}
	var left []netip.Addr
	for _, a := range addrs {
		if slices.Contains(enis[0].PrivateIPs, a) {
			left = append(left, a)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return e.unassignOnce(ctx, eniID, left)
}

// unassignOnce treats the absence of a single address, or of the ENI, as success.
func (e *ECS) unassignOnce(ctx context.Context, eniID string, addrs []netip.Addr) error {
	p := params{"NetworkInterfaceId": eniID}
	for i, a := range addrs {
		p.set("PrivateIpAddress."+strconv.Itoa(i+1), a.String())
	}
	err := e.caller.call(ctx, request{&e.ecs, "UnassignPrivateIpAddresses", p, true}, &struct{}{})
	if hasCode(err, codeEniNotFound) || len(addrs) == 1 && hasCode(err, codeIPUnassigned) {
		return nil
	}
	return err
}

// read sends an action that changes nothing.
func (e *ECS) read(ctx context.Context, action string, p params, answer any) error {
	return e.caller.call(ctx, request{&e.ecs, action, p, true}, answer)
}

// write sends an action that may not be done twice.
func (e *ECS) write(ctx context.Context, action string, p params) error {
	return e.caller.call(ctx, request{&e.ecs, action, p, false}, &struct{}{})
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
