package aliyun

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Limits of the ENI actions.
const (
	maxDescribedENIs = 100 // IDs per DescribeNetworkInterfaces
	eniPageSize      = 500
	maxPages         = 1000
	maxClientToken   = 64
)

// DescribeENIs returns the ENIs that match every set field of the filter, over all pages, in the order of the answer.
// IDs that do not exist are left out without an error. An empty filter is refused: it would list the whole account.
func (c *Client) DescribeENIs(ctx context.Context, f ENIFilter) ([]ENI, error) {
	if len(f.IDs) == 0 && f.InstanceID == "" && len(f.Tags) == 0 {
		return nil, errors.New("describe ENIs: filter is empty")
	}
	if len(f.IDs) == 0 {
		return c.describeENIs(ctx, f)
	}
	var all []ENI
	for ids := range slices.Chunk(f.IDs, maxDescribedENIs) {
		part, err := c.describeENIs(ctx, ENIFilter{IDs: ids, InstanceID: f.InstanceID, Tags: f.Tags})
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

func (c *Client) describeENIs(ctx context.Context, f ENIFilter) ([]ENI, error) {
	var all []ENI
	seen := map[string]bool{} // pages drift while ENIs come and go
	token := ""
	for range maxPages {
		p := params{"MaxResults": strconv.Itoa(eniPageSize)}
		p.set("NextToken", token)
		p.set("InstanceId", f.InstanceID)
		p.list("NetworkInterfaceId", f.IDs)
		p.tags(f.Tags)
		var page wireENIPage
		if err := c.read(ctx, "DescribeNetworkInterfaces", p, &page); err != nil {
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
		var err error
		if token, err = nextToken(token, page.NextToken, len(all)); err != nil {
			return nil, fmt.Errorf("describe ENIs: %w", err)
		}
		if token == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("describe ENIs: more than %d pages", maxPages)
}

// CreateENI creates a detached ENI. Its state is StatusAvailable once DescribeENIs says so. Errors match ErrVSwitchFull
// and ErrQuota where those are the reason.
func (c *Client) CreateENI(ctx context.Context, r CreateENI) (ENI, error) {
	if err := checkClientToken(r.ClientToken); err != nil {
		return ENI{}, fmt.Errorf("create an ENI: %w", err)
	}
	p := params{}
	p.set("VSwitchId", r.VSwitchID)
	p.list("SecurityGroupIds", r.SecurityGroupIDs)
	p.count("SecondaryPrivateIpAddressCount", r.SecondaryIPs)
	p.count("Ipv6AddressCount", r.IPv6s)
	p.count("QueueNumber", r.QueueNumber)
	p.tags(r.Tags)
	p.set("Description", r.Description)
	p.set("ResourceGroupId", r.ResourceGroupID)
	p.set("DeleteOnRelease", strconv.FormatBool(r.DeleteOnRelease)) // the API's default is true
	p.set("ClientToken", r.ClientToken)
	var w wireENI
	err := c.caller.call(ctx, request{&c.ecs, "CreateNetworkInterface", p, r.ClientToken != ""}, &w)
	if err != nil {
		return ENI{}, fmt.Errorf("create an ENI in vSwitch %s: %w", r.VSwitchID, err)
	}
	eni, err := w.eni()
	if err != nil {
		return ENI{}, fmt.Errorf("create an ENI in vSwitch %s: %w", r.VSwitchID, err)
	}
	return eni, nil
}

func checkClientToken(token string) error {
	if len(token) > maxClientToken {
		return fmt.Errorf("client token has %d characters, want at most %d", len(token), maxClientToken)
	}
	return nil
}

// AttachENI starts to attach the ENI; it is done when DescribeENIs shows StatusInUse, and may fall back to
// StatusAvailable. After ErrUnavailable or ErrConflict the state says whether an attachment is under way.
func (c *Client) AttachENI(ctx context.Context, eniID, instanceID string) error {
	p := params{"NetworkInterfaceId": eniID, "InstanceId": instanceID}
	if err := c.once(ctx, "AttachNetworkInterface", p); err != nil {
		return fmt.Errorf("attach %s to %s: %w", eniID, instanceID, err)
	}
	return nil
}

// DetachENI starts to detach the ENI; it is done when DescribeENIs shows StatusAvailable. An ENI or instance that does
// not exist counts as detached.
func (c *Client) DetachENI(ctx context.Context, eniID, instanceID string) error {
	p := params{"NetworkInterfaceId": eniID, "InstanceId": instanceID}
	err := c.once(ctx, "DetachNetworkInterface", p)
	if err != nil && !hasCode(err, codeEniNotFound, codeEcsNotFound) {
		return fmt.Errorf("detach %s from %s: %w", eniID, instanceID, err)
	}
	return nil
}

// DeleteENI starts to delete a detached ENI. One that does not exist counts as deleted.
func (c *Client) DeleteENI(ctx context.Context, eniID string) error {
	err := c.repeatable(ctx, "DeleteNetworkInterface", params{"NetworkInterfaceId": eniID})
	if err != nil && !hasCode(err, codeEniNotFound) {
		return fmt.Errorf("delete %s: %w", eniID, err)
	}
	return nil
}

// ModifyENI changes the set fields of the ENI and leaves the others.
func (c *Client) ModifyENI(ctx context.Context, eniID string, m ModifyENI) error {
	p := params{"NetworkInterfaceId": eniID}
	p.list("SecurityGroupId", m.SecurityGroupIDs)
	p.count("QueueNumber", m.QueueNumber)
	if m.DeleteOnRelease != nil {
		p.set("DeleteOnRelease", strconv.FormatBool(*m.DeleteOnRelease))
	}
	if len(p) == 1 {
		return nil
	}
	if err := c.repeatable(ctx, "ModifyNetworkInterfaceAttribute", p); err != nil {
		return fmt.Errorf("modify %s: %w", eniID, err)
	}
	return nil
}
