package aliyun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// DescribeInstance returns the instance; the error matches ErrNotFound if there is none.
func (c *Client) DescribeInstance(ctx context.Context, id string) (Instance, error) {
	ids, err := json.Marshal([]string{id}) // the parameter is the text of a JSON array
	if err != nil {
		return Instance{}, fmt.Errorf("describe instance %s: %w", id, err)
	}
	var w wireInstances
	if err := c.read(ctx, "DescribeInstances", params{"InstanceIds": string(ids)}, &w); err != nil {
		return Instance{}, fmt.Errorf("describe instance %s: %w", id, err)
	}
	for _, in := range w.Instances.Instance {
		if in.InstanceID == id {
			instance, err := in.instance()
			if err != nil {
				return Instance{}, fmt.Errorf("describe instance %s: %w", id, err)
			}
			return instance, nil
		}
	}
	return Instance{}, fmt.Errorf("describe instance %s: %w", id, ErrNotFound)
}

// DescribeInstanceType returns the limits of the instance type; the error matches ErrNotFound if there is none.
func (c *Client) DescribeInstanceType(ctx context.Context, id string) (InstanceType, error) {
	p := params{}
	p.list("InstanceTypes", []string{id})
	var w wireInstanceTypes
	if err := c.read(ctx, "DescribeInstanceTypes", p, &w); err != nil {
		return InstanceType{}, fmt.Errorf("describe instance type %s: %w", id, err)
	}
	for _, t := range w.InstanceTypes.InstanceType {
		if t.InstanceTypeID != id {
			continue
		}
		it, err := t.instanceType()
		if err != nil {
			return InstanceType{}, fmt.Errorf("describe instance type %s: %w", id, err)
		}
		return it, nil
	}
	return InstanceType{}, fmt.Errorf("describe instance type %s: %w", id, ErrNotFound)
}

// DescribeVSwitches returns the vSwitches with the given IDs, in their order, with one call for each. IDs that do not
// exist are left out.
func (c *Client) DescribeVSwitches(ctx context.Context, ids []string) ([]VSwitch, error) {
	var all []VSwitch
	for _, id := range ids {
		var w wireVSwitches
		if err := c.readVPC(ctx, "DescribeVSwitches", params{"VSwitchId": id}, &w); err != nil {
			return nil, fmt.Errorf("describe vSwitch %s: %w", id, err)
		}
		for _, v := range w.VSwitches.VSwitch {
			if v.VSwitchID != id {
				continue
			}
			vsw, err := v.vSwitch()
			if err != nil {
				return nil, fmt.Errorf("describe vSwitch %s: %w", id, err)
			}
			all = append(all, vsw)
		}
	}
	return all, nil
}

// groupPage is the most security groups the API names in one answer, and takes by ID in one request.
const groupPage = 100

// DescribeSecurityGroups returns the security groups of the VPC (empty: of any) with the given IDs (none: all of the
// VPC), in the order of the answer. IDs that do not exist are left out. Nothing to select by is refused.
func (c *Client) DescribeSecurityGroups(ctx context.Context, vpcID string, ids []string) ([]SecurityGroup, error) {
	if vpcID == "" && len(ids) == 0 {
		return nil, errors.New("describe security groups: neither a VPC nor IDs are given")
	}
	if len(ids) == 0 {
		return c.describeGroups(ctx, params{"VpcId": vpcID})
	}
	var all []SecurityGroup
	for part := range slices.Chunk(ids, groupPage) {
		text, err := json.Marshal(part) // the parameter is the text of a JSON array
		if err != nil {
			return nil, fmt.Errorf("describe security groups: %w", err)
		}
		p := params{"SecurityGroupIds": string(text)}
		p.set("VpcId", vpcID)
		groups, err := c.describeGroups(ctx, p)
		if err != nil {
			return nil, err
		}
		all = append(all, groups...)
	}
	return all, nil
}

func (c *Client) describeGroups(ctx context.Context, p params) ([]SecurityGroup, error) {
	var all []SecurityGroup
	p["MaxResults"] = strconv.Itoa(groupPage)
	for range maxPages {
		var page wireSecurityGroups
		if err := c.read(ctx, "DescribeSecurityGroups", p, &page); err != nil {
			return nil, fmt.Errorf("describe security groups: %w", err)
		}
		for _, w := range page.SecurityGroups.SecurityGroup {
			all = append(all, SecurityGroup{ID: w.ID, VPCID: w.VPCID, Type: w.Type, ServiceManaged: w.ServiceManaged})
		}
		next, err := nextToken(p["NextToken"], page.NextToken, len(all))
		if err != nil {
			return nil, fmt.Errorf("describe security groups: %w", err)
		}
		if next == "" {
			return all, nil
		}
		p["NextToken"] = next
	}
	return nil, fmt.Errorf("describe security groups: more than %d pages", maxPages)
}
