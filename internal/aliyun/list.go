package aliyun

import "fmt"

// nextToken returns where to go on after a page, empty when the list is whole. A token that leads back to the page it came
// with is an error: what has been read is a part, and what is missing would pass for gone.
func nextToken(sent, got string, have int) (string, error) {
	if got != "" && got == sent {
		return "", fmt.Errorf("list ended early at %d items: NextToken repeats: %w", have, ErrUnavailable)
	}
	return got, nil
}

// endOfPages reports whether a numbered list is whole after a page of so many items. An empty page before all that the
// answer counts were read is an error. Without a count, a page that is not full is the last.
func endOfPages(items, size, have, total int, counted bool) (bool, error) {
	switch {
	case !counted:
		return items < size, nil
	case have >= total:
		return true, nil
	case items == 0:
		return false, fmt.Errorf("list ended early at %d of %d: %w", have, total, ErrUnavailable)
	}
	return false, nil
}
