package preflight

import (
	"context"
	"sync"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A fakeCloud answers from facts.
type fakeCloud struct {
	mu             sync.Mutex // guards everything
	facts          Facts
	fail           map[string]error
	counts         map[string]int
	askedVSwitches [][]string
	askedGroups    []string
}

func newFakeCloud(f Facts) *fakeCloud { return &fakeCloud{facts: f, counts: map[string]int{}} }

// change replaces the facts under the lock.
func (c *fakeCloud) change(do func(*fakeCloud)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do(c)
}

func answer[T any](c *fakeCloud, name string, pick func(*Facts) T) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[name]++
	if err := c.fail[name]; err != nil {
		var none T
		return none, err
	}
	return pick(&c.facts), nil
}

// calls are the names under which questions can fail.
func (c *fakeCloud) calls() map[string]bool {
	return map[string]bool{
		"DescribeInstance": true, "DescribeInstanceType": true, "DescribeVPC": true, "DescribeVSwitches": true,
		"DescribeSecurityGroups": true, "DescribeENIs": true, "DescribeRouteTables": true, "DescribeSNATEntries": true,
	}
}

func (c *fakeCloud) DescribeInstance(context.Context, string) (aliyun.Instance, error) {
	return answer(c, "DescribeInstance", func(f *Facts) aliyun.Instance { return f.Instance.Value })
}

func (c *fakeCloud) DescribeInstanceType(context.Context, string) (aliyun.InstanceType, error) {
	return answer(c, "DescribeInstanceType", func(f *Facts) aliyun.InstanceType { return f.Type.Value })
}

func (c *fakeCloud) DescribeVPC(context.Context, string) (aliyun.VPC, error) {
	return answer(c, "DescribeVPC", func(f *Facts) aliyun.VPC { return f.VPC.Value })
}

func (c *fakeCloud) DescribeVSwitches(_ context.Context, ids []string) ([]aliyun.VSwitch, error) {
	c.change(func(c *fakeCloud) { c.askedVSwitches = append(c.askedVSwitches, ids) })
	return answer(c, "DescribeVSwitches", func(f *Facts) []aliyun.VSwitch { return f.VSwitches.Value })
}

func (c *fakeCloud) DescribeSecurityGroups(_ context.Context, _ string, ids []string) ([]aliyun.SecurityGroup, error) {
	c.change(func(c *fakeCloud) { c.askedGroups = ids })
	return answer(c, "DescribeSecurityGroups", func(f *Facts) []aliyun.SecurityGroup { return f.Groups.Value })
}

func (c *fakeCloud) DescribeENIs(context.Context, aliyun.ENIFilter) ([]aliyun.ENI, error) {
	return answer(c, "DescribeENIs", func(*Facts) []aliyun.ENI { return nil })
}

func (c *fakeCloud) DescribeRouteTables(context.Context, string) ([]aliyun.RouteTable, error) {
	return answer(c, "DescribeRouteTables", func(f *Facts) []aliyun.RouteTable { return f.Routes.Value })
}

func (c *fakeCloud) DescribeSNATEntries(context.Context, string) ([]aliyun.SNATEntry, error) {
	return answer(c, "DescribeSNATEntries", func(f *Facts) []aliyun.SNATEntry { return f.SNAT.Value })
}
