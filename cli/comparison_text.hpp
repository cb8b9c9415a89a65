#pragma once
// The text that is compared over unless the user gives another: prose, a little code, numbers and a few words
// of other languages, as answers have them.

#include <string_view>

namespace convoy::cli {

inline constexpr std::string_view comparison_text =
    R"(A cluster of three machines stands in a cellar, and each of them holds a part of one model. The first
machine has the table that turns words into numbers and the first twenty layers; the second has the next twenty; the
third has the rest and the matrix that turns numbers into words again. When somebody asks a question, the question goes
through all three like a letter through sorting offices: opened, read, stamped, and handed on. Nobody on the way knows
the answer. It only takes shape at the end, one word at a time, and each word has to make the whole journey again.

What happens if one of the machines falls silent? The others cannot know at first whether it is dead or only slow. They
wait for a moment, because most silences are short. Then they agree on a new number, call it the epoch, and whatever
arrives with an older number is thrown away, however late and however well meant. A new process is started where the
old one was. It reads its weights from the disk, says that it is ready, and the questions that were under way are asked
again from the beginning. The person who is waiting sees a pause of a few seconds and then the rest of the sentence.

Weights are numbers, and there are very many of them. A number may be written with sixteen bits, or with eight, or with
four. With fewer bits the model is smaller and faster, but each number is a little wrong. Does it matter? A single
error does not: 0.1372 or 0.1381, who could tell? But errors add up, and they do not add up everywhere in the same way.
An attention layer that looks for the one word it needs among ten thousand is easily led astray; a wide layer that sums
over many small contributions hardly notices. That is why one measures. Take a text, let both models read it, and
compare at every word how sure they are of what comes next. If the two distributions are nearly the same, nothing was
lost that anyone would miss; if they drift apart, it is better to know it now than to hear of it from a user.

    def mean(values):
        total = 0.0
        for value in values:
            total += value
        return total / len(values) if values else 0.0

There are rules of thumb. Eight bits with a scale for every thirty-two numbers are almost free: 34 bytes instead of 64,
and a difference in the third decimal place. Four bits are a bargain for large models and a risk for small ones. In
1948 Claude Shannon wrote down how many bits a message needs; he did not say how many bits a thought needs, and nobody
has found out since. "Weniger, aber besser", said a German designer of radios, and in French one says that the better is
the enemy of the good: le mieux est l'ennemi du bien. Both are right. Begin with what is exact, make it smaller step by
step, measure after each step, and stop one step before it hurts.
)";

}  // namespace convoy::cli
