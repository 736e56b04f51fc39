# What Perl programs do: hashes, regular expressions, text.
use strict;
open my $in, '<', '/tmp/text' or die;
my (%count, $long, $shape);
while (<$in>) {
    last if $. > 50000;
    $count{lc $_}++ for /(\w+)/g;
    s/\s+/ /g;
    $long = $_ if length > length($long // '');
    $shape .= substr $_, 0, 1 if /^[#*]/;
}
my @best = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print scalar(@best), " @best[0 .. 9] ", length $shape, "\n$long\n";
