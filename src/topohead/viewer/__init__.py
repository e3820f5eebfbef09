"""The local page: any result in the browser, and the same page as one offline file."""
