package aliyun

import (
	"context"
	"encoding/json"
	"fmt"
)

// DescribeInstance returns the instance; the error matches ErrNotFound if there is none.
func (e *ECS) DescribeInstance(ctx context.Context, id string) (Instance, error) {
	ids, err := json.Marshal([]string{id}) // the parameter is the text of a JSON array
	if err != nil {
		return Instance{}, fmt.Errorf("describe instance %s: %w", id, err)
	}
	var w wireInstances
	if err := e.read(ctx, "DescribeInstances", params{"InstanceIds": string(ids)}, &w); err != nil {
		return Instance{}, fmt.Errorf("describe instance %s: %w", id, err)
	}
	for _, in := range w.Instances.Instance {
		if in.InstanceID == id {
			return in.instance(), nil
		}
	}
	return Instance{}, fmt.Errorf("describe instance %s: %w", id, ErrNotFound)
}

// DescribeInstanceType returns the limits of the instance type; the error matches ErrNotFound if there is none.
func (e *ECS) DescribeInstanceType(ctx context.Context, id string) (InstanceType, error) {
	p := params{}
	p.list("InstanceTypes", []string{id})
	var w wireInstanceTypes
	if err := e.read(ctx, "DescribeInstanceTypes", p, &w); err != nil {
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
func (e *ECS) DescribeVSwitches(ctx context.Context, ids []string) ([]VSwitch, error) {
	var all []VSwitch
	for _, id := range ids {
		var w wireVSwitches
		req := request{&e.vpc, "DescribeVSwitches", params{"VSwitchId": id}, true}
		if err := e.caller.call(ctx, req, &w); err != nil {
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
