package sim

import (
	"context"
	"fmt"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// RunInstances starts instances one after the other.
func (c *Cloud) RunInstances(ctx context.Context, specs []InstanceSpec) ([]aliyun.Instance, error) {
	var all []aliyun.Instance
	for i, s := range specs {
		in, _, err := c.RunInstance(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("instances[%d]: %w", i, err)
		}
		all = append(all, in)
	}
	return all, nil
}
