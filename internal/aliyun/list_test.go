package aliyun_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A list of which a part is missing must not pass for the whole: what is not on it would be taken for gone.
func TestListsThatEndEarly(t *testing.T) {
	t.Parallel()
	const table = `{"TotalCount":1,"RouterTableList":{"RouterTableListType":[{"RouteTableId":"vtb-1"}]}}`
	enis := func(ctx context.Context, c *aliyun.Client) error {
		_, err := c.DescribeENIs(ctx, aliyun.ENIFilter{InstanceID: "i-1"})
		return err
	}
	groups := func(ctx context.Context, c *aliyun.Client) error {
		_, err := c.DescribeSecurityGroups(ctx, "vpc-1", nil)
		return err
	}
	for name, tc := range map[string]struct {
		list    func(context.Context, *aliyun.Client) error
		answers map[string]string
		want    string
	}{
		"ENIs, token repeats": {
			enis, map[string]string{"DescribeNetworkInterfaces": `{"NextToken":"a","NetworkInterfaceSets":{"NetworkInterfaceSet":[` + wholeENI + `]}}`},
			"at 1 items",
		},
		"groups, token repeats": {
			groups, map[string]string{"DescribeSecurityGroups": `{"NextToken":"a","SecurityGroups":{"SecurityGroup":[{"SecurityGroupId":"sg-1"}]}}`},
			"at 2 items",
		},
		"routes, token repeats": {
			describeTables, map[string]string{"DescribeRouteTableList": table, "DescribeRouteEntryList": `{"NextToken":"a"}`},
			"at 0 items",
		},
		"tables, empty page": {
			describeTables, map[string]string{
				"DescribeRouteTableList": `{"TotalCount":3,"RouterTableList":{"RouterTableListType":[{"RouteTableId":"vtb-1"}]}}` + "\n" + `{"TotalCount":3}`,
			},
			"at 1 of 3",
		},
		"gateways, nothing": {describeSNAT, map[string]string{"DescribeNatGateways": `{"TotalCount":"2"}`}, "at 0 of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, client := scripted(t, tc.answers)
			if err := tc.list(t.Context(), client); !errors.Is(err, aliyun.ErrUnavailable) || !strings.Contains(err.Error(), "ended early "+tc.want) {
				t.Errorf("error %v, want ErrUnavailable, ended early %s", err, tc.want)
			}
		})
	}
	// Without a count the last page is one that is not full; with one, an empty list is whole.
	_, client := scripted(t, map[string]string{
		"DescribeRouteTableList": `{}`, "DescribeNatGateways": `{"TotalCount":0}`,
	})
	if err := errors.Join(describeTables(t.Context(), client), describeSNAT(t.Context(), client)); err != nil {
		t.Errorf("empty lists: %v", err)
	}
}
